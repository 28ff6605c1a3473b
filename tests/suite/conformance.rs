//! The official conformance suite of the OCI distribution-spec, where `tests/run` could build it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::json;

use crate::support::authority::Authority;
use crate::support::http::{bearer, token};
use crate::support::image::{Image, MANIFEST, digest, push_blob};
use crate::support::node::{Node, sync_token};
use crate::support::{TempDir, eventually, skip, tool};
use crate::sync::{SOON, pull};

/// What the current suite skips here, and why.
const SKIPS: [(&str, &str); 1] = [(
    "mount anonymous",
    "without a source any repository's content would be had by its digest: 202, as the spec allows",
)];
/// What the profile 1.1 leaves out beside it; the profile dev does not.
const SKIPS_OF_1_1: [(&str, &str); 2] = [SKIPS[0], ("post cancel", "part of the next release")];
/// What it does not do to a registry that takes no pushes.
const SKIPS_WITHOUT_PUSH: [(&str, &str); 5] = [
    ("/push/", "it would push"),
    ("/delete/", "it would delete"),
    ("/manifest-put", "it would push"),
    ("sha256 blobs", "it would push what it reads"),
    ("sha512 blobs", "it would push what it reads"),
];

/// Leaf tests of a suite: passed, skipped or what went wrong, and the name.
struct Verdicts(Vec<(String, String)>);

impl Verdicts {
    /// Reads the report of the suite of 1.1.
    fn of_junit(report: &str) -> Verdicts {
        let attribute = |tag: &str, name: &str| {
            let rest = tag.split_once(&format!(" {name}=\""))?.1;
            Some(rest.split_once('"')?.0.to_owned())
        };
        let tags = report.split("<testcase").skip(1).filter_map(|rest| rest.split_once('>'));
        let pair =
            |(tag, _): (&str, &str)| Some((attribute(tag, "status")?, attribute(tag, "name")?));
        Verdicts(tags.filter_map(pair).collect())
    }

    /// Reads the tree of results that the current suite prints.
    fn of_text(text: &str) -> Verdicts {
        let tree = text.split_once("Test results\n").expect("results").1;
        let tree = tree.split_once("\n\n").expect("the end of the results").0;
        let depth = |line: &str| line.len() - line.trim_start().len();
        let tests: Vec<_> =
            tree.lines().filter(|line| !line.trim_start().starts_with("- ")).collect();
        let next = tests.iter().skip(1).map(|line| depth(line)).chain([0]);
        let leaves = tests.iter().zip(next).filter(|(line, next)| *next <= depth(line));
        let pair = |(line, _): (&&str, usize)| {
            let (name, verdict) = line.trim_start().rsplit_once(": ").expect("name and verdict");
            let verdict = match verdict {
                "Pass" => "passed",
                "Skip" | "Disabled" => "skipped",
                other => other,
            };
            (verdict.to_owned(), name.to_owned())
        };
        Verdicts(leaves.map(pair).collect())
    }

    fn passed(&self) -> usize {
        self.0.iter().filter(|(verdict, _)| verdict == "passed").count()
    }

    fn skipped(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter(|(verdict, _)| verdict == "skipped").map(|(_, name)| name.as_str())
    }

    /// Something passed, and nothing failed; else `text` shows what.
    fn without_failure(self, text: &str) -> Verdicts {
        eprintln!("{} passed, {} skipped", self.passed(), self.skipped().count());
        let bad: Vec<_> = self.0.iter().filter(|(v, _)| v != "passed" && v != "skipped").collect();
        assert!(bad.is_empty() && self.passed() > 0, "{bad:#?}\n{text}");
        self
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

/// Runs the suite of the release 1.1.1.
fn run_1_1(suite: &Path, variables: &[(&str, &str)]) -> Verdicts {
    let results = TempDir::new();
    let output = run(suite, &results, "OCI_REPORT_DIR", variables);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    let report = std::fs::read_to_string(results.join("junit.xml"));
    let report = report.unwrap_or_else(|error| panic!("no report ({error}): {text}"));
    Verdicts::of_junit(&report).without_failure(&text)
}

/// Runs the current suite. Its exit status is that of writing reports too, in which it crashes
/// where it was not allowed to push; what it prints before is whole.
fn run_current(suite: &Path, variables: &[(&str, &str)]) -> Verdicts {
    let results = TempDir::new();
    let output = run(suite, &results, "OCI_RESULTS_DIR", variables);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("\nOCI Conformance Result: Pass\n"), "{text}");
    Verdicts::of_text(&text).without_failure(&text)
}

/// Runs a suite, which takes the directory for its reports by this variable.
fn run(suite: &Path, results: &TempDir, directory: &str, variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(suite);
    command.env(directory, results.path()).current_dir(results.path());
    command.envs(variables.iter().copied()).output().unwrap()
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
        let verdicts = run_1_1(
            &suite,
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
    for (profile, least, skips) in [("1.1", 687, &SKIPS_OF_1_1[..]), ("dev", 787, &SKIPS[..])] {
        for tls in [false, true] {
            let (_node, address, (user, password)) = registry(&authority, tls);
            let verdicts = run_current(
                &suite,
                &[
                    ("OCI_REGISTRY", &address),
                    ("OCI_TLS", if tls { "enabled" } else { "disabled" }),
                    ("SSL_CERT_FILE", &ca),
                    ("OCI_USERNAME", &user),
                    ("OCI_PASSWORD", &password),
                    ("OCI_VERSION", profile),
                ],
            );
            assert!(verdicts.passed() >= least, "{profile}: only {} passed", verdicts.passed());
            verdicts.only_skips(skips);
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
                token(&above.login, &sync_token(name), password, &[]).ok()
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
    let verdicts = run_1_1(
        &suite,
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
        let verdicts = run_current(
            &suite,
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
        assert!(verdicts.passed() >= 18, "{profile}: only {} passed", verdicts.passed());
        verdicts.only_skips(&SKIPS_WITHOUT_PUSH);
    }
}
