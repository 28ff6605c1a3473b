//! The official conformance suite of the OCI distribution-spec, where `tests/run` could build it.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::support::authority::Authority;
use crate::support::http::{bearer, token};
use crate::support::image::{Image, MANIFEST, digest, push_blob};
use crate::support::node::Node;
use crate::support::{TempDir, eventually, skip, tool};
use crate::sync::{SOON, pull};

/// What the suite may skip, and why. Each option that a profile leaves out is switched on.
const SKIPS: [(&str, &str); 1] = [(
    "mount anonymous",
    "without a source any repository's content would be had by its digest: 202, as the spec allows",
)];

/// Leaf tests of a suite: passed, skipped, failure or error, and the name.
struct Verdicts(Vec<(String, String)>);

impl Verdicts {
    fn read(report: &str) -> Verdicts {
        let attribute = |tag: &str, name: &str| {
            let rest = tag.split_once(&format!(" {name}=\""))?.1;
            Some(rest.split_once('"')?.0.to_owned())
        };
        let tags = report.split("<testcase").skip(1).filter_map(|rest| rest.split_once('>'));
        let pair =
            |(tag, _): (&str, &str)| Some((attribute(tag, "status")?, attribute(tag, "name")?));
        Verdicts(tags.filter_map(pair).collect())
    }

    fn passed(&self) -> usize {
        self.0.iter().filter(|(verdict, _)| verdict == "passed").count()
    }

    fn skipped(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter(|(verdict, _)| verdict == "skipped").map(|(_, name)| name.as_str())
    }

    /// Whatever is skipped must be known, with its reason.
    fn only_skips(&self, known: &[(&str, &str)]) {
        let known = |name: &str| known.iter().any(|(part, _)| name.contains(part));
        let unexplained: Vec<_> = self.skipped().filter(|name| !known(name)).collect();
        assert!(unexplained.is_empty(), "skipped without a reason: {unexplained:#?}");
    }
}

/// A suite that `tests/run` built; without it the test is skipped.
fn suite(name: &str) -> Option<PathBuf> {
    let found = tool(name);
    if found.is_none() {
        skip("the conformance suite could not be built from the Go module proxy");
    }
    found
}

/// A root with a pusher, and its address as a client sees it, plain or over TLS.
fn registry(authority: &Authority, tls: bool) -> (Node, String, (String, String)) {
    let mut node = Node::device("x");
    node.make_root();
    let secure = node.with_tls(authority);
    node.start();
    let user = node.pusher("owner-token", "*");
    let address = if tls { secure } else { node.login.clone() };
    (node, address, user)
}

/// Runs a suite; the names of its tests by their verdict. `directory` is how it takes the place for
/// its report.
fn run(suite: &Path, directory: &str, variables: &[(&str, &str)]) -> Verdicts {
    let results = TempDir::new();
    let mut command = Command::new(suite);
    command.env(directory, results.path()).current_dir(results.path());
    let output = command.envs(variables.iter().copied()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let report = std::fs::read_to_string(results.join("junit.xml"));
    let verdicts = Verdicts::read(&report.unwrap_or_else(|e| panic!("no report ({e}): {text}")));
    eprintln!("{} passed, {} skipped", verdicts.passed(), verdicts.skipped().count());
    let bad: Vec<_> = verdicts.0.iter().filter(|(v, _)| v != "passed" && v != "skipped").collect();
    assert!(bad.is_empty() && output.status.success(), "{bad:#?}\n{text}");
    assert!(verdicts.passed() > 0, "nothing was tested: {text}");
    verdicts
}

/// What the suite of the release 1.1.1 skips here, and why.
const SKIPS_1_1: [(&str, &str); 4] = [
    ("Get tag name from environment", "it pushes what it reads"),
    ("Populate registry with test tags (no push)", "it pushes what it reads"),
    ("Cross-mounting of nonexistent blob", "the mount before it was answered 201"),
    ("automatic content discovery enabled", "a mount without a source is answered 202"),
];

#[test]
fn f187_the_suite_of_1_1_passes_on_the_root() {
    let Some(suite) = suite("conformance-1.1") else {
        return;
    };
    let authority = Authority::new();
    let ca = authority.ca().display().to_string();
    for tls in [false, true] {
        let (_node, address, (user, password)) = registry(&authority, tls);
        let url = format!("{}://{address}", if tls { "https" } else { "http" });
        let verdicts = run(
            &suite,
            "OCI_REPORT_DIR",
            &[
                ("OCI_ROOT_URL", &url),
                ("OCI_NAMESPACE", "conformance/repo1"),
                ("OCI_CROSSMOUNT_NAMESPACE", "conformance/repo2"),
                ("SSL_CERT_FILE", &ca),
                ("OCI_USERNAME", &user),
                ("OCI_PASSWORD", &password),
                ("OCI_TEST_PULL", "1"),
                ("OCI_TEST_PUSH", "1"),
                ("OCI_TEST_CONTENT_DISCOVERY", "1"),
                ("OCI_TEST_CONTENT_MANAGEMENT", "1"),
                ("OCI_AUTOMATIC_CROSSMOUNT", "0"),
            ],
        );
        assert!(verdicts.passed() >= 76, "only {} passed", verdicts.passed());
        verdicts.only_skips(&SKIPS_1_1);
    }
}

#[test]
fn f187_the_suite_passes_on_the_root() {
    let Some(suite) = suite("conformance") else {
        return;
    };
    let authority = Authority::new();
    let ca = authority.ca().display().to_string();
    for profile in ["1.1", "dev"] {
        for tls in [false, true] {
            let (_node, address, (user, password)) = registry(&authority, tls);
            let verdicts = run(
                &suite,
                "OCI_RESULTS_DIR",
                &[
                    ("OCI_REGISTRY", &address),
                    ("OCI_TLS", if tls { "enabled" } else { "disabled" }),
                    ("SSL_CERT_FILE", &ca),
                    ("OCI_USERNAME", &user),
                    ("OCI_PASSWORD", &password),
                    ("OCI_VERSION", profile),
                    ("OCI_API_BLOBS_UPLOAD_CANCEL", "true"),
                    ("OCI_API_BLOBS_DIGEST_HEADER", "true"),
                    ("OCI_API_MANIFESTS_DIGEST_HEADER", "true"),
                    ("OCI_API_MANIFESTS_TAG_PARAM", "true"),
                ],
            );
            verdicts.only_skips(&SKIPS);
        }
    }
}

/// A root with an image and what refers to it, and three tiers of ReadOnly devices below.
struct Tree {
    _root: Node,
    devices: Vec<Node>,
    user: (String, String),
    image: Image,
    artifact: String,
}

const REPOSITORY: &str = "conformance/repo1";

fn tree() -> Tree {
    let root = Node::root();
    let user = root.pusher("owner-token", "*");
    let image = Image::new(1, &[5000]);
    assert_eq!(image.push(&root.login, (&user.0, &user.1), REPOSITORY, "v1").status, 201);
    let scope = format!("repository:{REPOSITORY}:pull,push");
    let owner = token(&root.login, &user.0, &user.1, &[&scope]).unwrap();
    assert_eq!(push_blob(&root.login, &owner, REPOSITORY, b"{}").status, 201);
    let empty = json!({"mediaType": "application/vnd.oci.empty.v1+json",
        "digest": digest(b"{}"), "size": 2});
    let artifact = json!({"schemaVersion": 2, "mediaType": MANIFEST,
        "artifactType": "application/x.sbom", "config": empty, "layers": [empty],
        "subject": {"mediaType": MANIFEST, "digest": image.digest(),
            "size": image.manifest.len()}})
    .to_string();
    let target = format!("/v2/{REPOSITORY}/manifests/sbom");
    let headers = [("content-type", MANIFEST)];
    let answer = bearer(&root.login, &owner, "PUT", &target, &headers, artifact.as_bytes());
    assert_eq!(answer.status, 201);
    let mut devices: Vec<Node> = Vec::new();
    for (name, parent) in [("tier1", None), ("tier2", Some("tier1")), ("tier3", Some("tier2"))] {
        let mut arguments = vec!["--repository", REPOSITORY, "--mode", "ReadOnly"];
        arguments.extend(parent.into_iter().flat_map(|parent| ["--parent", parent]));
        let mut connection = root.connect(name, &arguments);
        root.link(name, &user.0);
        if let Some(above) = devices.last() {
            let from = connection.find("ParentGatewayEndpoint=").unwrap() + 22;
            let to = connection[from..].find(';').map_or(connection.len(), |end| from + end);
            connection.replace_range(from..to, &above.login);
            // A device whose password its parent does not know yet is refused, and stops.
            let from = connection.find("SyncTokenPassword=").unwrap() + 18;
            let password = connection[from..].split(';').next().unwrap();
            eventually(SOON, "the tier above knows its child's password", || {
                token(&above.login, name, password, &[]).ok()
            });
        }
        let device = Node::start_device(&connection);
        eventually(SOON, "content arrives", || pull(&device, &user, REPOSITORY, "sbom").ok());
        eventually(SOON, "content arrives", || pull(&device, &user, REPOSITORY, "v1").ok());
        devices.push(device);
    }
    Tree { _root: root, devices, user, image, artifact }
}

#[test]
fn content_reads_alike_at_depth_3() {
    let Tree { devices, user, image, artifact, .. } = &tree();
    let deepest = devices.last().unwrap();
    let scope = format!("repository:{REPOSITORY}:pull,push");
    let reader = token(&deepest.login, &user.0, &user.1, &[&scope]).unwrap();
    let ask = |method: &str, path: &str, headers: &[(&str, &str)]| {
        let target = format!("/v2/{REPOSITORY}/{path}");
        bearer(&deepest.login, &reader, method, &target, headers, b"")
    };
    assert_eq!(ask("GET", "tags/list", &[]).json()["tags"], json!(["sbom", "v1"]));
    let manifest = ask("GET", "manifests/v1", &[]);
    assert_eq!(manifest.body, image.manifest);
    assert_eq!(manifest.header("docker-content-digest"), Some(image.digest().as_str()));
    let blob = format!("blobs/{}", digest(&image.layers[0]));
    let part = ask("GET", &blob, &[("range", "bytes=100-199")]);
    assert_eq!((part.status, part.body.as_slice()), (206, &image.layers[0][100..200]));
    assert_eq!(ask("HEAD", &blob, &[]).status, 200);
    let listed = ask("GET", &format!("referrers/{}", image.digest()), &[]).json();
    assert_eq!(listed["manifests"][0]["digest"], digest(artifact.as_bytes()));
    for (method, path) in [
        ("POST", "blobs/uploads/".to_owned()),
        ("PUT", "manifests/v2".to_owned()),
        ("DELETE", "manifests/v1".to_owned()),
        ("DELETE", blob),
    ] {
        let answer = ask(method, &path, &[]);
        assert_eq!((answer.status, answer.error().1.as_str()), (403, "read_only"), "{method}");
    }
}

#[test]
fn f187_the_suite_of_1_1_reads_synced_content_at_depth_3() {
    let Some(suite) = suite("conformance-1.1") else {
        return;
    };
    let Tree { devices, user, image, .. } = &tree();
    let deepest = devices.last().unwrap();
    let verdicts = run(
        &suite,
        "OCI_REPORT_DIR",
        &[
            ("OCI_ROOT_URL", &format!("http://{}", deepest.login)),
            ("OCI_NAMESPACE", REPOSITORY),
            ("OCI_USERNAME", &user.0),
            ("OCI_PASSWORD", &user.1),
            ("OCI_TEST_PULL", "1"),
            ("OCI_TAG_NAME", "v1"),
            ("OCI_MANIFEST_DIGEST", &image.digest()),
            ("OCI_BLOB_DIGEST", &digest(&image.layers[0])),
        ],
    );
    assert!(verdicts.passed() >= 8, "only {} passed: {:#?}", verdicts.passed(), verdicts.0);
}

#[test]
fn f187_the_suite_reads_synced_content_at_depth_3() {
    let Some(suite) = suite("conformance") else {
        return;
    };
    let Tree { devices, user, image, .. } = &tree();
    let deepest = devices.last().unwrap();
    let blobs: Vec<String> = image.blobs().map(|blob| digest(blob)).collect();
    for profile in ["1.1", "dev"] {
        run(
            &suite,
            "OCI_RESULTS_DIR",
            &[
                // The suite looks at this header only where it has pushed the manifest itself.
                ("OCI_API_MANIFESTS_DIGEST_HEADER", "false"),
                ("OCI_REGISTRY", &deepest.login),
                ("OCI_TLS", "disabled"),
                ("OCI_USERNAME", &user.0),
                ("OCI_PASSWORD", &user.1),
                ("OCI_VERSION", profile),
                ("OCI_API_PUSH", "false"),
                ("OCI_API_TAGS_DELETE", "false"),
                ("OCI_API_MANIFESTS_DELETE", "false"),
                ("OCI_API_BLOBS_DELETE", "false"),
                ("OCI_RO_DATA_TAGS", "v1 sbom"),
                ("OCI_RO_DATA_MANIFESTS", &image.digest()),
                ("OCI_RO_DATA_BLOBS", &blobs.join(" ")),
                ("OCI_RO_DATA_REFERRERS", &image.digest()),
            ],
        );
    }
}
