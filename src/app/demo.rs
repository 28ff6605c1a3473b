//! `skerry demo`: a root and a device on loopback with temporary state, an image that travels from
//! one to the other, and a pull with the root gone.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

use super::node::Node;
use super::sample;
use crate::config::{Config, Listener, Parent, Secret};
use crate::http::{Client, ClientBody, ClientOptions, ClientRequest, Method};
use crate::sys::clock::sleep;
use crate::sys::signals::Signals;
use crate::sys::{Disk, Spawner, Sys, SystemDisk};
use crate::types::Digest;

/// How long the device may take to have what the root has.
const SYNC_DEADLINE: Duration = Duration::from_secs(60);
/// How often that is looked at.
const SYNC_POLL: Duration = Duration::from_millis(50);
/// Largest blob that the demo pulls, bytes.
const PULL_BYTES_MAX: u64 = 64 * 1024 * 1024;

const REPOSITORY: &str = "hello-world";
const TAG: &str = "v1";
const TOKEN: &str = "demo-token";
const DEVICE: &str = "device01";

/// What `skerry demo` was asked for.
#[derive(Clone, Copy, Default, Debug)]
pub struct DemoOptions {
    /// Stop after the tour, with 0 if every step succeeded.
    pub check: bool,
}

/// Runs a small tree on loopback ports and shows it.
pub fn demo(options: DemoOptions) -> ExitCode {
    crate::sys::log::init(log::LevelFilter::Warn);
    let spawner = Spawner::new();
    let result = spawner.clone().run(1, async {
        let sys = Sys::real(spawner.clone());
        let state = std::env::temp_dir().join(format!("skerry-demo-{}", &sys.rng.uuid()[..8]));
        let made = SystemDisk.create_dir_all(&state);
        made.map_err(|error| format!("cannot create {}: {error}", state.display()))?;
        let mut tour = Tour { spawner, client: client(&sys)?, sys, state: state.clone() };
        let result = tour.run(options).await;
        let removed = SystemDisk.remove_dir_all(&state);
        result.and(removed.map_err(|error| format!("cannot remove {}: {error}", state.display())))
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn client(sys: &Sys) -> Result<Client, String> {
    Client::new(sys, ClientOptions::default())
}

/// Text for the person who runs the demo. A closed standard output is no reason to fail.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

struct Tour {
    spawner: Spawner,
    sys: Sys,
    client: Client,
    state: PathBuf,
}

impl Tour {
    async fn run(&mut self, options: DemoOptions) -> Result<(), String> {
        let mut steps = Steps { sys: self.sys.clone(), at: self.sys.clock.monotonic() };
        let root = self.start_root().await?;
        steps.done(&format!("root listens on {} (children: {})", root.login, root.gateway));

        let password = self.create_token().await?;
        steps.done(&format!("scope map and client token '{TOKEN}' created"));

        let image = sample::image(&*self.sys.rng);
        let digest = self.push(&root.login, &password, &image).await?;
        steps.done(&format!("{REPOSITORY}:{TAG} pushed to the root, {} bytes", image.len()));

        let connection_string = self.create_connected_registry().await?;
        steps.done(&format!("connected registry '{DEVICE}' created, client token linked"));

        let device = self.start_device(&connection_string).await?;
        steps.done(&format!("device listens on {} and is activated", device.login));

        self.wait_for_sync(&device.login, &password).await?;
        steps.done("image synced to the device");

        let pulled = self.pull(&device.login, &password).await?;
        expect(&digest, &pulled)?;
        steps.done(&format!("pulled through the device, digests verified: {pulled}"));

        if options.check {
            root.stop().await;
            steps.done("root cut off");
            let pulled = self.pull(&device.login, &password).await?;
            expect(&digest, &pulled)?;
            steps.done("pulled again with the root gone: login and content come from the device");
            device.stop().await;
            say("demo: every step succeeded");
            return Ok(());
        }
        let mut signals = Signals::new().map_err(|error| error.to_string())?;
        print_lines(&root, &device, &password, &self.state);
        let _ = signals.next().await;
        device.stop().await;
        root.stop().await;
        Ok(())
    }

    fn config(&self, name: &str) -> Config {
        let any = || {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            vec![Listener { address, tls: None }]
        };
        let mut config = Config::default();
        config.storage.state_dir = self.state.join(name);
        config.listen.admin = self.state.join(name).join("admin.sock");
        config.listen.login = any();
        config.listen.gateway = any();
        config
    }

    async fn start_root(&self) -> Result<Node, String> {
        let mut config = self.config("root");
        "demoregistry".clone_into(&mut config.registry.name);
        Node::start(self.spawner.clone(), config, None).await.map_err(|error| error.message)
    }

    async fn start_device(&self, connection_string: &str) -> Result<Node, String> {
        let mut config = self.config("device");
        let connection_string = Secret::new(connection_string);
        config.parent = Some(Parent { connection_string, ..Parent::default() });
        Node::start(self.spawner.clone(), config, None).await.map_err(|error| error.message)
    }

    /// One management call over the root's admin socket.
    async fn manage(&self, path: &str, body: Value) -> Result<Value, String> {
        let socket = self.state.join("root").join("admin.sock");
        let client = Client::unix(&self.sys, &socket);
        let url = format!("http://localhost/admin/v1/{path}");
        let mut request = ClientRequest::new(Method::Post, url);
        request = request.with("content-type", "application/json");
        request.body = ClientBody::Bytes(body.to_string().into_bytes());
        let (status, answer) = fetch(&client, request).await?;
        match status {
            200..=299 => serde_json::from_slice(&answer).map_err(|error| error.to_string()),
            _ => Err(format!("{path}: {status} {}", String::from_utf8_lossy(&answer))),
        }
    }

    async fn create_token(&self) -> Result<String, String> {
        let grants = json!([[REPOSITORY, "content/read", "content/write", "metadata/read"]]);
        self.manage("scope-map/create", json!({ "name": "demo-map", "repository": grants }))
            .await?;
        let body = json!({ "name": TOKEN, "scopeMap": "demo-map" });
        let token = self.manage("token/create", body).await?;
        let password = token.pointer("/credentials/passwords/0/value").and_then(Value::as_str);
        password.map(str::to_owned).ok_or_else(|| "the token has no password".to_owned())
    }

    async fn create_connected_registry(&self) -> Result<String, String> {
        let body = json!({ "name": DEVICE, "repository": [REPOSITORY], "clientTokens": [TOKEN] });
        self.manage("connected-registry/create", body).await?;
        let body = json!({ "name": DEVICE, "generatePassword": 1 });
        let settings = self.manage("connected-registry/get-settings", body).await?;
        let text = settings.get("ACR_REGISTRY_CONNECTION_STRING").and_then(Value::as_str);
        text.map(str::to_owned).ok_or_else(|| "there is no connection string".to_owned())
    }

    async fn login(&self, address: &str, password: &str, actions: &str) -> Result<String, String> {
        let url = format!(
            "http://{address}/oauth2/token?service={address}\
             &scope=repository:{REPOSITORY}:{actions}"
        );
        let pair = format!("{TOKEN}:{password}");
        let basic = format!("Basic {}", data_encoding::BASE64.encode(pair.as_bytes()));
        let request = ClientRequest::new(Method::Get, url).with("authorization", basic);
        let (status, body) = fetch(&self.client, request).await?;
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let token = body.get("access_token").and_then(Value::as_str);
        let token = token.ok_or_else(|| format!("login at {address}: {status}"))?;
        Ok(format!("Bearer {token}"))
    }

    async fn push(
        &self,
        address: &str,
        password: &str,
        image: &sample::Image,
    ) -> Result<Digest, String> {
        let bearer = self.login(address, password, "pull,push").await?;
        for (digest, blob) in &image.blobs {
            let url = format!("http://{address}/v2/{REPOSITORY}/blobs/uploads/?digest={digest}");
            let mut request = ClientRequest::new(Method::Post, url)
                .with("authorization", bearer.clone())
                .with("content-type", "application/octet-stream");
            request.body = ClientBody::Bytes(blob.clone());
            created(fetch(&self.client, request).await?)?;
        }
        let url = format!("http://{address}/v2/{REPOSITORY}/manifests/{TAG}");
        let mut request = ClientRequest::new(Method::Put, url)
            .with("authorization", bearer)
            .with("content-type", crate::types::media::OCI_MANIFEST);
        request.body = ClientBody::Bytes(image.manifest.clone());
        created(fetch(&self.client, request).await?)?;
        Ok(image.digest.clone())
    }

    async fn wait_for_sync(&self, address: &str, password: &str) -> Result<(), String> {
        let deadline = self.sys.clock.monotonic() + SYNC_DEADLINE;
        loop {
            let result = self.pull(address, password).await;
            match result {
                Ok(_) => return Ok(()),
                Err(error) if self.sys.clock.monotonic() > deadline => return Err(error),
                Err(_) => sleep(SYNC_POLL).await,
            }
        }
    }

    /// Pulls the image as a client does and checks every digest; the manifest's is returned.
    async fn pull(&self, address: &str, password: &str) -> Result<Digest, String> {
        let bearer = self.login(address, password, "pull").await?;
        let get = async |what: String| {
            let url = format!("http://{address}/v2/{REPOSITORY}/{what}");
            let request = ClientRequest::new(Method::Get, url)
                .with("authorization", bearer.clone())
                .with("accept", crate::types::media::OCI_MANIFEST);
            match fetch(&self.client, request).await? {
                (200, body) => Ok(body),
                (status, body) => {
                    Err(format!("{what}: {status} {}", String::from_utf8_lossy(&body)))
                }
            }
        };
        let manifest = get(format!("manifests/{TAG}")).await?;
        let parsed: Value = serde_json::from_slice(&manifest).map_err(|e| e.to_string())?;
        let layers = parsed["layers"].as_array().cloned().unwrap_or_default();
        for descriptor in layers.iter().chain(parsed.get("config")) {
            let wanted: Digest = descriptor["digest"]
                .as_str()
                .and_then(|text| text.parse().ok())
                .ok_or("a descriptor without a digest")?;
            expect(&wanted, &sample::digest(&get(format!("blobs/{wanted}")).await?))?;
        }
        Ok(sample::digest(&manifest))
    }
}

async fn fetch(client: &Client, request: ClientRequest) -> Result<(u16, Vec<u8>), String> {
    let url = request.url.split('?').next().unwrap_or_default().to_owned();
    let answer = client.send(request).await;
    let mut answer = answer.map_err(|error| format!("{url}: {error}"))?;
    let body = answer.body.read_all(PULL_BYTES_MAX).await;
    Ok((answer.status, body.map_err(|error| format!("{url}: {error:?}"))?))
}

fn created((status, body): (u16, Vec<u8>)) -> Result<(), String> {
    match status {
        201 => Ok(()),
        _ => Err(format!("push refused: {status} {}", String::from_utf8_lossy(&body))),
    }
}

fn expect(wanted: &Digest, got: &Digest) -> Result<(), String> {
    if wanted == got { Ok(()) } else { Err(format!("wanted {wanted}, got {got}")) }
}

/// Prints each step with its time.
struct Steps {
    sys: Sys,
    at: Duration,
}

impl Steps {
    fn done(&mut self, what: &str) {
        let now = self.sys.clock.monotonic();
        let milliseconds = now.saturating_sub(self.at).as_millis();
        say(&format!("{milliseconds:>6} ms  {what}"));
        self.at = now;
    }
}

fn print_lines(root: &Node, device: &Node, password: &str, state: &Path) {
    let (device, root) = (&device.login, &root.login);
    say(&format!(
        "
The root is at {root}, the device at {device}. Pull from the device:

  echo {password} | docker login {device} --username {TOKEN} --password-stdin
  docker pull {device}/{REPOSITORY}:{TAG}

  podman login --tls-verify=false -u {TOKEN} -p {password} {device}
  podman pull --tls-verify=false {device}/{REPOSITORY}:{TAG}

  skopeo copy --src-tls-verify=false --src-creds {TOKEN}:{password} \\
    docker://{device}/{REPOSITORY}:{TAG} dir:/tmp/hello-world

Manage the root:

  skerry --admin-socket {0}/root/admin.sock connected-registry list

Everything is in {0} and goes with Ctrl-C.",
        state.display()
    ));
}
