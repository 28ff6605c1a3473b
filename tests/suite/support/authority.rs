//! A certificate authority of the tests' own, and a server certificate that it signed.

use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use super::TempDir;

pub struct Authority {
    dir: TempDir,
}

impl Authority {
    /// Signs a certificate for loopback.
    pub fn new() -> Authority {
        Authority::signing(1975, 4096)
    }

    /// Signs a certificate for loopback, valid between the beginnings of these years.
    pub fn signing(from: i32, to: i32) -> Authority {
        let dir = TempDir::new();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test authority");
        let key = KeyPair::generate().unwrap();
        let own = params.self_signed(&key).unwrap();
        let issuer = Issuer::new(params, key);
        let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
        let server = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(to, 1, 1);
        let certificate = params.signed_by(&server, &issuer).unwrap();
        std::fs::create_dir(dir.join("trust")).unwrap();
        std::fs::write(dir.join("trust/ca.crt"), own.pem()).unwrap();
        std::fs::write(dir.join("server.pem"), certificate.pem()).unwrap();
        std::fs::write(dir.join("server.key"), server.serialize_pem()).unwrap();
        Authority { dir }
    }

    /// The authority's certificate, PEM.
    pub fn ca(&self) -> PathBuf {
        self.dir.join("trust/ca.crt")
    }

    /// A directory with it alone.
    pub fn trust(&self) -> PathBuf {
        self.dir.join("trust")
    }

    /// The server certificate, PEM.
    pub fn certificate(&self) -> PathBuf {
        self.dir.join("server.pem")
    }

    /// Its private key, PEM.
    pub fn key(&self) -> PathBuf {
        self.dir.join("server.key")
    }

    /// The section `[tls]` of a node that shows the server certificate.
    pub fn section(&self) -> String {
        format!(
            "[tls]\nmode = \"files\"\ncertificate = \"{}\"\nprivate_key = \"{}\"\n",
            self.certificate().display(),
            self.key().display()
        )
    }
}
