//! The layers, merged from files and variables in memory.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;
use crate::types::Role;

const STRING: &str = "ConnectedRegistryName=dock01;SyncTokenName=dock01;SyncTokenPassword==a+/=;\
                      ParentGatewayEndpoint=reg.example:5001;ParentEndpointProtocol=https";

fn with_file(file: &str) -> Options {
    Options { file: Some(PathBuf::from(file)), ..Options::default() }
}

fn main_file(text: &str) -> Result<Loaded, ConfigError> {
    load(&Options::default(), &MapSource::default().file(MAIN_FILE, text))
}

fn error_of(result: Result<Loaded, ConfigError>) -> String {
    match result {
        Ok(_) => panic!("this configuration must be refused"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn nothing_at_all_is_a_root_on_loopback() {
    let loaded = load(&Options::default(), &MapSource::default()).unwrap();
    let config = &loaded.config;
    assert_eq!(config.named_role(), None);
    assert_eq!(config.listen.login[0].address.to_string(), "127.0.0.1:5000");
    assert_eq!(config.listen.gateway[0].address.to_string(), "127.0.0.1:5001");
    assert_eq!(config.storage.state_dir, Path::new("./skerry-data"));
    assert_eq!(config.listen.admin, Path::new("./skerry-data/admin.sock"));
    assert_eq!(config.tokens.access_lifetime, Duration::from_secs(75 * 60));
    assert!(!config.listen.login[0].has_tls(&config.tls));
}

/// Symptom: the message did not name the file of the vendor that has the section.
#[test]
fn f166_a_root_with_a_parent_is_told_where_each_is_written() {
    let vendor = "[parent]\nconnection_string_file = \"/data/string\"\n";
    let source = MapSource::default().file("/usr/lib/skerry/conf.d/50-data.toml", vendor);
    let source = source.file(MAIN_FILE, "[registry]\nrole = \"root\"\n");
    let error = error_of(load(&Options::default(), &source));
    let wanted = "/etc/skerry/skerry.toml:2: registry.role: is \"root\", and [parent] \
                  (parent.connection_string_file, /usr/lib/skerry/conf.d/50-data.toml:2) makes \
                  this node a connected registry; remove one of them";
    assert!(error.starts_with(wanted), "{error}");
    assert!(error.contains("/etc/skerry/conf.d/50-data.toml"), "{error}");
}

/// One key set in every layer: the highest wins, and taking layers away uncovers the next.
#[test]
fn p061_the_later_layer_wins() {
    let text = |level: &str| format!("[log]\nlevel = \"{level}\"\n");
    let board = MapSource::default().file(BOARD_FILE, &text("off"));
    let vendor = board.clone().file("/usr/lib/skerry/conf.d/10.toml", &text("error"));
    let main = vendor.clone().file(MAIN_FILE, &text("warn"));
    let local = main.clone().file("/etc/skerry/conf.d/20.toml", &text("info"));
    let run = local.clone().file("/run/skerry/conf.d/30.toml", &text("debug"));
    let environment = run.clone().variable("SKERRY_LOG__LEVEL", "trace");
    let flags = Options { set: vec!["log.level=off".to_owned()], ..Options::default() };

    let level = |source: &MapSource, options: &Options| {
        let loaded = load(options, source).unwrap();
        (loaded.config.log.level.to_string(), loaded.origin("log.level").to_string())
    };
    let none = Options::default();
    let expect = |level: &str, origin: &str| (level.to_owned(), origin.to_owned());
    assert_eq!(level(&MapSource::default(), &none), expect("INFO", "built-in"));
    assert_eq!(level(&board, &none), expect("OFF", "/usr/share/skerry/board.toml:2"));
    assert_eq!(level(&vendor, &none), expect("ERROR", "/usr/lib/skerry/conf.d/10.toml:2"));
    assert_eq!(level(&main, &none), expect("WARN", "/etc/skerry/skerry.toml:2"));
    assert_eq!(level(&local, &none), expect("INFO", "/etc/skerry/conf.d/20.toml:2"));
    assert_eq!(level(&run, &none), expect("DEBUG", "/run/skerry/conf.d/30.toml:2"));
    assert_eq!(level(&environment, &none), expect("TRACE", "environment SKERRY_LOG__LEVEL"));
    assert_eq!(level(&environment, &flags), expect("OFF", "--set"));
}

#[test]
fn p061_a_list_in_a_flag_or_a_variable_has_commas_or_is_a_toml_array() {
    let quotas = |text: &str| {
        let flag = Options { set: vec![format!("registry.quotas={text}")], ..Options::default() };
        let variable = MapSource::default().variable("SKERRY_REGISTRY__QUOTAS", text);
        let by_flag = load(&flag, &MapSource::default())?.config.registry.quotas;
        assert_eq!(load(&Options::default(), &variable)?.config.registry.quotas, by_flag, "{text}");
        Ok::<_, ConfigError>(by_flag.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    let two = Ok(vec!["team/*=10GiB".to_owned(), "*=50GiB".to_owned()]);
    for text in
        ["team/*=10GiB,*=50GiB", "[\"team/*=10GiB\", \"*=50GiB\"]", " ['team/*=10GiB','*=50GiB',] "]
    {
        assert_eq!(quotas(text), two, "{text}");
    }
    assert_eq!(quotas("[]"), Ok(Vec::new()));
    for (text, told) in [("[hello-world=1MiB]", "\"team/*=10GiB\""), ("[1]", "must be a string")] {
        let error = quotas(text).unwrap_err().to_string();
        assert!(error.contains(told), "{text}: {error}");
    }
    let login = "listen.login=[\"127.0.0.1:80\", {address = \"[::1]:443\", tls = false}]";
    for (flag, count) in [(login, 2), ("listen.login=[::1]:81,[::1]:82", 2)] {
        let flag = Options { set: vec![flag.to_owned()], ..Options::default() };
        let listen = load(&flag, &MapSource::default()).unwrap().config.listen;
        assert_eq!(listen.login.len(), count);
    }
}

#[test]
fn a_named_file_stands_for_etc_and_run() {
    let source = MapSource::default()
        .file("/usr/lib/skerry/conf.d/10.toml", "[listen]\nthreads = 2\n")
        .file(MAIN_FILE, "[log]\nlevel = \"warn\"\n")
        .file("/etc/skerry/conf.d/20.toml", "[log]\nlevel = \"error\"\n")
        .file("/tmp/mine.toml", "[registry]\nname = \"bench\"\n");
    let loaded = load(&with_file("/tmp/mine.toml"), &source).unwrap();
    assert_eq!(loaded.config.registry.name, "bench");
    assert_eq!(loaded.config.listen.threads, 2);
    assert_eq!(loaded.config.log.level, log::LevelFilter::Info);
    assert_eq!(loaded.config.storage.state_dir, Path::new("/var/lib/skerry"));
    assert!(error_of(load(&with_file("/tmp/none.toml"), &source)).contains("/tmp/none.toml"));
}

#[test]
fn a_file_masks_its_namesakes_in_earlier_directories() {
    let source = MapSource::default()
        .file("/usr/lib/skerry/conf.d/10-a.toml", "[listen]\nthreads = 2\n")
        .file("/etc/skerry/conf.d/10-a.toml", "")
        .file("/etc/skerry/conf.d/notes.txt", "not toml");
    assert_eq!(load(&Options::default(), &source).unwrap().config.listen.threads, 1);
}

#[test]
fn p016_errors_name_file_line_and_key() {
    let error = error_of(main_file("[listen]\n\nlogn = \"127.0.0.1:1\"\n"));
    assert!(error.starts_with("/etc/skerry/skerry.toml:3: listen.logn: unknown key"), "{error}");
    assert!(error.contains("listen.login"), "{error}");
    let error = error_of(main_file("[listen]\nthreads = \"two\"\n"));
    assert!(error.starts_with("/etc/skerry/skerry.toml:2: listen.threads: must be"), "{error}");
    let error = error_of(main_file("[listen]\nthreads = 0\n"));
    assert!(error.starts_with("/etc/skerry/skerry.toml:2: listen.threads: must be"), "{error}");
    let error = error_of(main_file("[listen\nthreads = 1\n"));
    assert!(error.starts_with("/etc/skerry/skerry.toml:1: "), "{error}");
    let error = error_of(main_file("listen = 1\n"));
    assert!(error.contains("skerry.toml:1: listen: must be a table"), "{error}");
    let source = MapSource::default().variable("SKERRY_LISTEN__THREDS", "2");
    let error = error_of(load(&Options::default(), &source));
    assert!(error.contains("SKERRY_LISTEN__THREDS: listen.threds"), "{error}");
    assert!(error.contains("listen.threads"), "{error}");
    assert!(!error.contains('\n'));
}

#[test]
fn foreign_variables_of_a_like_name_do_no_harm() {
    let source = MapSource::default().variable("SKERRY_PORT", "tcp://10.0.0.1:5000");
    assert!(load(&Options::default(), &source).is_ok());
}

#[test]
fn f166_the_connection_string_has_an_order_of_sources() {
    let file = "[parent]\nconnection_string = \"key\"\nconnection_string_file = \"/etc/cs\"\n";
    let all = MapSource::default()
        .file(MAIN_FILE, file)
        .file("/etc/cs", "file\n")
        .file("/run/c/skerry.connection-string", "credential\n")
        .variable("CREDENTIALS_DIRECTORY", "/run/c")
        .variable("ACR_REGISTRY_CONNECTION_STRING", "environment");
    let read = |source: &MapSource| {
        let loaded = load(&Options::default(), source).unwrap();
        loaded.config.parent.map(|parent| parent.connection_string.reveal().to_owned())
    };
    let mut source = all;
    assert_eq!(read(&source).as_deref(), Some("credential"));
    source.variables.remove("CREDENTIALS_DIRECTORY");
    assert_eq!(read(&source).as_deref(), Some("file"));
    source.files.insert(MAIN_FILE.into(), "[parent]\nconnection_string = \"key\"\n".to_owned());
    assert_eq!(read(&source).as_deref(), Some("key"));
    source.files.insert(MAIN_FILE.into(), String::new());
    assert_eq!(read(&source).as_deref(), Some("environment"));
    source.variables.clear();
    assert_eq!(read(&source), None);

    // None at all is no fault: the node waits for it.
    for text in ["ca_file = \"/x\"\n", "connection_string_file = \"/none\"\n"] {
        let config = main_file(&format!("[parent]\n{text}")).unwrap().config;
        assert!(config.reachable_parent().is_none() && config.parent.is_some());
        assert_eq!(config.named_role(), Some(Role::Connected));
    }
    let empty = MapSource::default()
        .file(MAIN_FILE, "[parent]\nconnection_string_file = \"/etc/cs\"\n")
        .file("/etc/cs", "\n");
    // Nor is one that cannot be read: nothing of lower rank takes its place.
    let empty = empty.variable("ACR_REGISTRY_CONNECTION_STRING", STRING);
    let config = load(&Options::default(), &empty).unwrap().config;
    assert!(config.reachable_parent().is_none());
    let cause = config.parent.unwrap().unreadable.unwrap();
    assert!(cause.contains("/etc/cs: the file is empty"), "{cause}");
    let empty = MapSource::default()
        .file("/run/c/skerry.connection-string", "")
        .variable("CREDENTIALS_DIRECTORY", "/run/c");
    let config = load(&Options::default(), &empty).unwrap().config;
    assert_eq!(config.named_role(), Some(Role::Connected), "it is never a root");
    let cause = config.parent.unwrap().unreadable.unwrap();
    assert_eq!(cause, "credential skerry.connection-string: it is empty");
}

#[test]
fn f166_the_configuration_may_name_the_role() {
    let named = |text: &str| main_file(text).unwrap().config.named_role();
    assert_eq!(named("[registry]\nrole = \"auto\"\n"), None);
    assert_eq!(named("[registry]\nrole = \"root\"\n"), Some(Role::Root));
    assert_eq!(named("[registry]\nrole = \"connected\"\n"), Some(Role::Connected));
    let parent = format!("[parent]\nconnection_string = \"{STRING}\"\n");
    assert_eq!(named(&parent), Some(Role::Connected));
    let both = format!("[registry]\nrole = \"root\"\n{parent}");
    let error = error_of(main_file(&both));
    assert!(error.contains(":2: registry.role: is \"root\", and [parent]"), "{error}");
    assert!(error_of(main_file("[registry]\nrole = \"boss\"\n")).contains("\"auto\""));
}

#[test]
fn f003_parts_of_the_gateways_host_name_are_checked() {
    for (key, good) in [("suffix", "reg.example"), ("region", "west-1")] {
        let with = |value: &str| main_file(&format!("[registry]\n{key} = \"{value}\"\n"));
        assert!(with(good).is_ok());
        let long = "a".repeat(64);
        for bad in ["", "a..b", ".a", "a.", "-a", "a-.b", "a_b", "a/b", &long] {
            let error = error_of(with(bad));
            assert!(error.contains(&format!(":2: registry.{key}: must be part of")), "{error}");
        }
    }
}

#[test]
fn secrets_are_not_explained() {
    let text = format!("[parent]\nconnection_string = \"{STRING}\"\n");
    let loaded = main_file(&text).unwrap();
    let printed = format!("{:?}", explain(&loaded));
    assert!(!printed.contains("a+/"), "{printed}");
    assert!(printed.contains("redacted"));
    let text = format!("[parent]\nconnection_strng = \"{STRING}\"\n");
    assert!(!error_of(main_file(&text)).contains("a+/"));
}

/// A file that others may read gives the secret away, one that they may write gives the node away.
#[test]
fn f166_secrets_in_files_of_everybody_are_warned_of() {
    let main = format!(
        "[tls]\nmode = \"files\"\ncertificate = \"/c\"\nprivate_key = \"/k\"\n\
         [parent]\nconnection_string = \"{STRING}\"\n"
    );
    for (main_mode, key_mode, expected) in [
        (0o640, 0o600, &[][..]),
        (0o644, 0o600, &["parent.connection_string: every user of this machine can read "][..]),
        (0o666, 0o602, &["can read and change ", "tls.private_key: every user of this machine"]),
    ] {
        let source = MapSource::default().file(MAIN_FILE, &main);
        let source = source.mode(MAIN_FILE, main_mode).mode("/k", key_mode);
        let warnings = load(&Options::default(), &source).unwrap().warnings;
        assert_eq!(warnings.len(), expected.len(), "{warnings:?}");
        for (warning, part) in warnings.iter().zip(expected) {
            assert!(warning.contains(part) && !warning.contains("a+/"), "{warning}");
            assert!(warning.contains("run chmod o= /"), "{warning}");
        }
    }
    // Where it is not in the file in the end, the file does not matter.
    let source = MapSource::default().file(MAIN_FILE, &main).mode(MAIN_FILE, 0o644);
    let set = vec![format!("parent.connection_string={STRING}")];
    let flag = Options { set, ..Options::default() };
    assert_eq!(load(&flag, &source).unwrap().warnings, [] as [String; 0]);
}

#[test]
fn variables_of_azures_runtime_are_honoured() {
    let string = STRING.replace("reg.example:5001", "$IOTEDGE_PARENTHOSTNAME:8000");
    let source = MapSource::default()
        .file("/c/tls.crt", "certificate")
        .file("/c/tls.key", "key")
        .variable("ACR_REGISTRY_CONNECTION_STRING", &string)
        .variable("ACR_REGISTRY_LOGIN_SERVER", "192.168.0.100:8080")
        .variable("ACR_REGISTRY_DATA_VOLUME", "/var/acr/data")
        .variable("ACR_REGISTRY_CERTIFICATE_VOLUME", "/c")
        .variable("ACR_PARENT_GATEWAY_ENDPOINT", "other.example:1")
        .variable("IOTEDGE_PARENTHOSTNAME", "edge");
    let config = load(&Options::default(), &source).unwrap().config;
    let parent = config.parent.as_ref().unwrap();
    assert!(parent.connection_string.reveal().contains("ParentGatewayEndpoint=edge:8000;"));
    assert_eq!(parent.gateway_endpoint.as_deref(), Some("other.example:1"));
    assert_eq!(config.registry.login_server.as_deref(), Some("192.168.0.100:8080"));
    assert_eq!(config.storage.state_dir, Path::new("/var/acr/data"));
    assert_eq!(config.tls.mode, TlsMode::Files);

    let mut source = source;
    source.variables.remove("IOTEDGE_PARENTHOSTNAME");
    let error = error_of(load(&Options::default(), &source));
    assert!(error.contains("IOTEDGE_PARENTHOSTNAME") && !error.contains("a+/"), "{error}");
}

#[test]
fn p010_directories_of_the_service_manager_are_used() {
    let text = "[storage]\nstate_dir = \"/data/key\"\n";
    let source = MapSource::default().variable("ACR_REGISTRY_DATA_VOLUME", "/var/acr/data");
    let written = source.clone().file(MAIN_FILE, text);
    let loaded = load(&Options::default(), &written).unwrap();
    assert_eq!(loaded.config.storage.state_dir, Path::new("/data/key"));
    let managed = |source: MapSource| {
        source
            .variable("STATE_DIRECTORY", "/var/lib/skerry:/other")
            .variable("RUNTIME_DIRECTORY", "/run/skerry")
    };
    let config = load(&Options::default(), &managed(source)).unwrap().config;
    assert_eq!(config.storage.state_dir, Path::new("/var/lib/skerry"));
    assert_eq!(config.listen.admin, Path::new("/run/skerry/admin.sock"));
    let flag = Options { set: vec!["storage.state_dir=/flag".to_owned()], ..Options::default() };
    let config = load(&flag, &managed(written)).unwrap().config;
    assert_eq!(config.storage.state_dir, Path::new("/flag"));
}

/// Symptom: the service used /var/lib/skerry without a word, and `skerry restore` the key.
#[test]
fn p010_a_state_directory_that_the_service_would_not_use_is_refused_and_told() {
    let written = |path: &str| {
        let text = format!("[storage]\nstate_dir = \"{path}\"\n");
        MapSource::default().file("/etc/skerry/conf.d/20.toml", &text)
    };
    let managed = |path| written(path).variable("STATE_DIRECTORY", "/var/lib/skerry");
    let told = |source: &MapSource, options: &Options| {
        load(options, source).unwrap().unmanaged_state_dir()
    };
    let none = Options::default();
    let error = error_of(load(&none, &managed("/srv/reg")));
    let wanted = "/etc/skerry/conf.d/20.toml:2: storage.state_dir: is /srv/reg, but the service \
                  manager gives this service /var/lib/skerry ($STATE_DIRECTORY); remove the key";
    assert!(error.starts_with(wanted), "{error}");
    assert!(error.contains("ReadWritePaths=/srv/reg"), "{error}");
    assert_eq!(told(&managed("/var/lib/skerry/"), &none), None);

    // From a shell.
    let warning = told(&written("/srv/reg"), &none).unwrap();
    assert!(warning.contains("/etc/skerry/conf.d/20.toml:2) is /srv/reg"), "{warning}");
    assert!(warning.contains("exit code 78") && warning.contains("remove the key"), "{warning}");
    assert_eq!(told(&written("/var/lib/skerry"), &none), None);
    assert_eq!(told(&MapSource::default(), &none), None);
    let own = MapSource::default().file("/tmp/a.toml", "[storage]\nstate_dir = \"/srv/reg\"\n");
    assert_eq!(told(&own, &with_file("/tmp/a.toml")), None);
}

#[test]
fn listeners_and_their_tls() {
    let text = "[tls]\nmode = \"self-signed\"\n[listen]\nlogin = [\"127.0.0.1:80\", \
                {address = \"[::1]:443\", tls = true}, {address = \"[::1]:81\", tls = false}]\n";
    let config = main_file(text).unwrap().config;
    let secure: Vec<bool> = config.listen.login.iter().map(|l| l.has_tls(&config.tls)).collect();
    assert_eq!(secure, [true, true, false]);
    let error = error_of(main_file("[listen]\nlogin = {address = \"[::1]:1\", tls = true}\n"));
    assert!(error.contains(":2: listen.login: tls = true needs tls.mode"), "{error}");
    let error = error_of(main_file("[tls]\nmode = \"files\"\ncertificate = \"/c\"\n"));
    assert!(error.contains("tls.private_key"), "{error}");
}

#[test]
fn an_oci_parent_is_understood() {
    let text = "[parent]\nkind = \"oci\"\nurl = \"https://harbor.example\"\n\
                repositories = [\"library/*\"]\nusername = \"u\"\npassword_file = \"/p\"\n";
    let parent = main_file(text).unwrap().config.parent.unwrap();
    assert_eq!(parent.kind, ParentKind::Oci);
    assert_eq!(parent.repositories, ["library/*"]);
    assert!(error_of(main_file("[parent]\nkind = \"oci\"\n")).contains("parent.url"));
}

#[test]
fn what_has_no_effect_is_warned_of() {
    let text = format!(
        "[listen]\ngateway = \"127.0.0.1:1\"\n[parent]\nconnection_string = \"{STRING}\"\n"
    );
    let loaded = main_file(&text).unwrap();
    assert_eq!(loaded.config.named_role(), Some(Role::Connected));
    assert_eq!(loaded.warnings.len(), 1);
    assert!(loaded.warnings[0].contains("listen.gateway"));
}

#[test]
fn f206_a_grace_of_nothing_is_refused_and_a_short_one_warned_of() {
    let grace = |text: &str| main_file(&format!("[gc]\ngrace = \"{text}\"\n"));
    for zero in ["\"0s\"", "\"0h\"", "\"0\"", "0"] {
        let error = error_of(main_file(&format!("[gc]\ngrace = {zero}\n")));
        assert!(error.contains("skerry.toml:2: gc.grace: must not be 0: a layer"), "{error}");
        assert!(error.contains("\"1h\""), "{error}");
    }
    let flag = Options { set: vec!["gc.grace=0".to_owned()], ..Options::default() };
    let error = error_of(load(&flag, &MapSource::default()));
    assert!(error.contains("--set: gc.grace: must not be 0: a layer"), "{error}");
    for (text, warned) in [("1s", true), ("59s", true), ("1m", false), ("1h", false)] {
        let warnings = grace(text).unwrap().warnings;
        assert_eq!(warnings.len(), usize::from(warned), "{warnings:?}");
        assert!(!warned || warnings[0].starts_with("gc.grace is below one minute"), "{warnings:?}");
    }
}

#[test]
fn each_listener_has_an_address_of_its_own() {
    let listen = |text: &str| main_file(&format!("[listen]\n{text}\n"));
    let twice = "login = \"127.0.0.1:7000\"\ngateway = \"127.0.0.1:7000\"";
    // Only a root has a gateway of its own, and the store may say which this is.
    let config = listen(twice).unwrap().config;
    assert!(config.check_addresses(Role::Connected).is_ok());
    assert!(config.check_addresses(Role::Root).unwrap_err().contains("used twice"));
    let root = |text: &str| listen(&format!("{text}\n[registry]\nrole = \"root\""));
    let error = error_of(root(twice));
    assert!(error.contains("listen.gateway: 127.0.0.1:7000 is used twice"), "{error}");
    let error = error_of(listen("login = [\"127.0.0.1:7000\", \"127.0.0.1:7000\"]"));
    assert!(error.contains("listen.login: 127.0.0.1:7000 is used twice"), "{error}");
    let other = "login = \"127.0.0.1:7000\"\ngateway = \"127.0.0.1:7001\"";
    assert!(listen(other).is_ok());
    assert!(listen("login = \"127.0.0.1:0\"\ngateway = \"127.0.0.1:0\"").is_ok());
    for (one, other, fails) in [
        ("0.0.0.0", "127.0.0.1", true),
        ("127.0.0.1", "0.0.0.0", true),
        ("[::]", "0.0.0.0", true),
        ("[::]", "127.0.0.1", true),
        ("[::1]", "[::]", true),
        ("0.0.0.0", "[::1]", false),
        ("127.0.0.1", "127.0.0.2", false),
        ("127.0.0.1", "[::ffff:127.0.0.1]", true),
        ("[fe80::1%2]", "[fe80::1%3]", false),
        ("[fe80::1%2]", "[fe80::1]", true),
    ] {
        let found = listen(&format!("login = [\"{one}:7000\", \"{other}:7000\"]"));
        assert_eq!(found.is_err(), fails, "{one} {other}");
        let told = format!("listen.login: {other}:7000 and {one}:7000 overlap");
        assert!(!fails || error_of(found).contains(&told));
    }
}

#[test]
fn limits_must_fit_the_memory() {
    let text = "[limits]\nmemory = \"96MiB\"\nconnections = 256\n";
    assert!(main_file(text).is_ok());
    let error = error_of(main_file("[limits]\nmemory = \"48MiB\"\nconnections = 256\n"));
    assert!(error.contains(":2: limits.memory: 48MiB is less"), "{error}");
    let error = error_of(main_file("[limits]\nconnections = 100000\n"));
    assert!(error.contains("limits.connections"), "{error}");
}

#[test]
fn a_board_inherits_once() {
    let source = MapSource::default()
        .file("/usr/share/skerry/base.toml", "[limits]\nconnections = 8\nuploads = 9\n")
        .file(BOARD_FILE, "inherit = \"base\"\n[board]\nid = \"x\"\n[limits]\nuploads = 7\n");
    let config = load(&Options::default(), &source).unwrap().config;
    assert_eq!((config.limits.connections, config.limits.uploads), (8, 7));
    let typo = MapSource::default().file(BOARD_FILE, "[board]\nid = \"x\"\ncoers = 4\n");
    let error = error_of(load(&Options::default(), &typo));
    assert!(error.starts_with("/usr/share/skerry/board.toml:3: "), "{error}");
    let error = error_of(main_file("[board]\nid = \"x\"\n"));
    assert!(error.contains("unknown key"), "{error}");
}

#[test]
fn a_socket_path_that_no_kernel_takes_is_refused_early() {
    let long = format!("[storage]\nstate_dir = \"/{}\"\n", "d".repeat(120));
    assert!(error_of(main_file(&long)).contains("listen.admin"));
}
