//! What clients will refuse about a server's certificate: its dates and its names.

use std::time::Duration;

use futures_rustls::rustls;
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, Error, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::certificates::{certificates, is_of_authority, provider};
use crate::types::UnixSeconds;

/// Why clients will refuse this certificate, each reason as a clause after its path. Dates count
/// when the time is known; `names` are hosts, each with the key that says that clients use it.
pub fn objections(pem: &[u8], now: Option<UnixSeconds>, names: &[(&str, String)]) -> Vec<String> {
    // What cannot be read at all is an error elsewhere.
    let chain = certificates(pem).unwrap_or_default();
    let dates = chain.iter().enumerate().filter_map(|(number, der)| match number {
        0 => fault(der, now?, true),
        number => {
            let fault = fault(der, now?, false)?;
            Some(format!("{fault} (certificate {} of its chain)", number + 1))
        }
    });
    let names = names.iter().filter(|(_, host)| chain.first().is_some_and(|d| !covers(d, host)));
    let names = names.map(|(key, host)| {
        format!("is not for {host} ({key}): clients that use this name refuse it")
    });
    dates.chain(names).collect()
}

/// What is wrong with the dates of a certificate, or with its kind if it is the server's own.
fn fault(der: &CertificateDer<'_>, now: UnixSeconds, is_own: bool) -> Option<String> {
    let certificate = ParsedCertificate::try_from(der).ok()?;
    let time = UnixTime::since_unix_epoch(Duration::from_secs(now.0));
    // Dates are looked at before any issuer, of which there is none here.
    let looked = verify_server_cert_signed_by_trust_anchor(
        &certificate,
        &RootCertStore::empty(),
        &[],
        time,
        provider().signature_verification_algorithms.all,
    );
    let day = |time: UnixTime| UnixSeconds(time.as_secs()).rfc3339();
    match looked.err()? {
        Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. }) => {
            let end = day(not_after);
            Some(format!("has expired on {end}: clients refuse it until it is replaced"))
        }
        Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. }) => {
            let begin = day(not_before);
            Some(format!("is not valid before {begin}: clients refuse it until then"))
        }
        error if is_own && is_of_authority(&error) => Some(
            "is that of an authority (CA:TRUE): connected registries refuse it as a server's; make \
             one with basicConstraints = CA:FALSE, or let this one sign it"
                .to_owned(),
        ),
        _ => None,
    }
}

/// Whether a certificate names this host; one that is not a host is not asked about.
fn covers(der: &CertificateDer<'_>, host: &str) -> bool {
    let (Ok(certificate), Ok(name)) =
        (ParsedCertificate::try_from(der), ServerName::try_from(host))
    else {
        return true;
    };
    verify_server_name(&certificate, &name).is_ok()
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

    use super::*;

    #[test]
    fn dates_and_names_that_clients_refuse_are_named() {
        let mut params = CertificateParams::new(vec!["reg.example".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2030, 1, 1);
        let pem = params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem();
        let of = |now: &str, host: &str| {
            let now = UnixSeconds::parse_rfc3339(now);
            let names = [("registry.login_server", host.to_owned())];
            objections(pem.as_bytes(), now, &names)
        };
        let none: [&str; 0] = [];
        assert_eq!(of("2025-01-01T00:00:00Z", "reg.example"), none);
        assert_eq!(of("", "reg.example"), none, "the time is unknown");
        let late = "has expired on 2030-01-01T00:00:00Z: clients refuse it until it is replaced";
        let other = "is not for other.example (registry.login_server): clients that use this name \
                     refuse it";
        assert_eq!(of("2031-01-01T00:00:00Z", "other.example"), [late, other]);
        let early = "is not valid before 2020-01-01T00:00:00Z: clients refuse it until then";
        assert_eq!(of("2019-01-01T00:00:00Z", "reg.example"), [early]);
        assert_eq!(of("2019-01-01T00:00:00Z", "10.0.0.1").len(), 2);
    }

    /// Symptom: curl and skopeo took what openssl makes by default, and no connected registry did.
    #[test]
    fn f143_a_certificate_of_an_authority_is_named_as_what_it_is() {
        let mut params = CertificateParams::new(vec!["reg.example".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem();
        params.is_ca = IsCa::ExplicitNoCa;
        let server = params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem();
        let now = UnixSeconds::parse_rfc3339("2026-01-01T00:00:00Z");
        let of = |pem: &str| objections(pem.as_bytes(), now, &[]);
        assert!(of(&authority)[0].contains("CA:FALSE"), "{:?}", of(&authority));
        // In a chain it is what it has to be.
        assert_eq!(of(&(server + &authority)), [""; 0]);
    }
}
