//! What depends on more than one key: where secrets come from, derived paths, and checks.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::layers::Merge;
use super::model::{Config, Listen, Parent, ParentKind, RoleSetting, Secret, TlsMode};
use super::plan::MemoryPlan;
use super::value::ByteSize;
use super::{
    BOARD_FILE, CONNECTION_STRING_CREDENTIAL, ConfigError, LOCAL_DIR, Loaded, MAIN_FILE, Origin,
    RUNTIME_DIR, STATE_DIR, STATE_DIR_WITHOUT_CONFIG, Source, VENDOR_DIR,
};
use crate::sys::clock::EARLIEST_TIME;
use crate::sys::credentials;
use crate::types::Role;
use crate::types::endpoint::{self, answers_at};
use crate::types::limits::{CONNECTIONS_MAX, MANIFEST_BYTES_MAX, UPLOADS_MAX};

/// Threads of executor or blocking pool.
const THREADS_MAX: usize = 64;
/// A grace of the garbage collection below this is warned of.
const SHORT_GRACE: Duration = Duration::from_secs(60);
/// A path of a Unix socket, bytes (unix(7), without the final zero).
const SOCKET_PATH_MAX: usize = 107;

/// Completes and checks a merge.
pub(super) fn finish(mut merge: Merge<'_>) -> Result<Loaded, ConfigError> {
    connection_string(&mut merge)?;
    gateway_endpoint(&mut merge)?;
    state_dir(&mut merge)?;
    admin_socket(&mut merge)?;
    certificate_volume(&mut merge)?;
    let Merge { config, origins, mut warnings, source, .. } = merge;
    let loaded = Loaded { config, origins, warnings: Vec::new() };
    check_role(&loaded)?;
    check_tls(&loaded)?;
    check_names(&loaded)?;
    check_addresses(&loaded)?;
    idle_certificate(&loaded, &mut warnings);
    warnings.extend(exposed_secrets(&loaded, source));
    check_ranges(&loaded)?;
    check_memory(&loaded)?;
    let is_set = |key: &str| loaded.origins.contains_key(key);
    if loaded.config.named_role() == Some(Role::Connected) {
        let ignored =
            ["name", "region", "suffix", "gateway_server"].map(|k| format!("registry.{k}"));
        let ignored = ignored.iter().map(String::as_str).chain(["listen.gateway"]);
        for key in ignored.filter(|key| is_set(key)) {
            let origin = loaded.origin(key);
            let why = "has no effect on a connected registry";
            warnings.push(format!("{key} {why} ({origin})"));
        }
    }
    if loaded.config.gc.grace < SHORT_GRACE {
        let origin = loaded.origin("gc.grace");
        warnings.push(format!(
            "gc.grace is below one minute: a push that pauses for longer than that must send its \
             layers again ({origin})"
        ));
    }
    Ok(Loaded { warnings, ..loaded })
}

/// Files with a secret that every user of the machine may read or change.
fn exposed_secrets(loaded: &Loaded, source: &dyn Source) -> Vec<String> {
    let parent = loaded.config.parent.as_ref();
    let connection_string = parent.and_then(|parent| match &parent.connection_string_origin {
        Origin::File(path, _) => Some(path),
        _ => None,
    });
    let secrets = [
        ("parent.connection_string", connection_string),
        ("parent.password_file", parent.and_then(|parent| parent.password_file.as_ref())),
        ("tls.private_key", loaded.config.tls.private_key.as_ref()),
    ];
    let warning = |(key, path): (&str, Option<&PathBuf>)| {
        let path = path?;
        let mode = source.mode(path)?;
        let may = match (mode & 0o004 != 0, mode & 0o002 != 0) {
            (true, true) => "read and change",
            (true, false) => "read",
            (false, true) => "change",
            (false, false) => return None,
        };
        let path = path.display();
        Some(format!(
            "{key}: every user of this machine can {may} {path} (mode {mode:04o}), which has a \
             secret in it; run chmod o= {path}"
        ))
    };
    secrets.into_iter().filter_map(warning).collect()
}

/// Takes the connection string from the first place that has one: credential, file, key,
/// environment.
fn connection_string(merge: &mut Merge<'_>) -> Result<(), ConfigError> {
    const KEY: &str = "parent.connection_string";
    if merge.config.parent.as_ref().is_some_and(|parent| parent.kind == ParentKind::Oci) {
        return oci_parent(merge);
    }
    // Without one the node waits for it, and an activated one serves what it has.
    let found = find_connection_string(merge);
    warn_of_two_strings(merge, found.as_ref().ok().and_then(Option::as_ref));
    let (secret, origin) = match found {
        Ok(Some(found)) => found,
        Ok(None) => return Ok(()),
        Err(cause) => {
            merge.config.parent.get_or_insert_with(Parent::default).unreadable = Some(cause);
            return Ok(());
        }
    };
    let text = expand(merge, secret.trim()).map_err(|m| ConfigError::at(&origin, KEY, m))?;
    let parent = merge.config.parent.get_or_insert_with(Parent::default);
    parent.connection_string = Secret::new(text);
    parent.connection_string_origin = origin.clone();
    merge.origins.insert(KEY, origin);
    Ok(())
}

/// Says which of the two keys for a connection string counts, where both are set. Neither does
/// beside a credential, or while the file cannot be read.
fn warn_of_two_strings(merge: &mut Merge<'_>, found: Option<&(String, Origin)>) {
    let keys = ["parent.connection_string_file", "parent.connection_string"];
    let [Some(file_origin), Some(text_origin)] = keys.map(|key| merge.origins.get(key)) else {
        return;
    };
    let parent = merge.config.parent.as_ref();
    let path = parent.and_then(|parent| parent.connection_string_file.clone());
    let counts = match (found.map(|(_, origin)| origin), path) {
        (Some(Origin::Credential(name)), _) => format!("the credential {name} counts"),
        (Some(Origin::File(from, 1)), Some(path)) if *from == path => format!("{} counts", keys[0]),
        (Some(_), _) => format!("{} counts, until that file is there", keys[1]),
        (None, _) => format!("{} counts, and cannot be used", keys[0]),
    };
    merge.warnings.push(format!(
        "{} ({file_origin}) and {} ({text_origin}) are both set: {counts}; remove the other",
        keys[0], keys[1]
    ));
}

/// An error: a place that should have one cannot be read, or is empty.
fn find_connection_string(merge: &Merge<'_>) -> Result<Option<(String, Origin)>, String> {
    let directory = merge.variables.get(credentials::VARIABLE).map(Path::new);
    if let Some(path) = credentials::path(directory, CONNECTION_STRING_CREDENTIAL)
        && let Some(text) = merge.source.read(&path).map_err(|e| {
            format!(
                "credential {CONNECTION_STRING_CREDENTIAL}: cannot read {}: {e}",
                path.display()
            )
        })?
    {
        let name = CONNECTION_STRING_CREDENTIAL;
        if text.trim().is_empty() {
            return Err(format!("credential {name}: it is empty"));
        }
        return Ok(Some((text, Origin::Credential(name.to_owned()))));
    }
    let parent = merge.config.parent.as_ref();
    let file = parent.and_then(|parent| parent.connection_string_file.as_ref());
    if let Some(path) = file
        && let Some(text) = merge.source.read(path).map_err(|e| {
            let key = "parent.connection_string_file";
            let origin = merge.origins.get(key).unwrap_or(&Origin::BuiltIn);
            ConfigError::at(origin, key, format_args!("cannot read {}: {e}", path.display())).0
        })?
    {
        if text.trim().is_empty() {
            let path = path.display();
            return Err(format!("parent.connection_string_file: {path}: the file is empty"));
        }
        return Ok(Some((text, Origin::File(path.clone(), 1))));
    }
    if let Some(parent) = parent.filter(|parent| !parent.connection_string.is_empty()) {
        let origin = merge.origins.get("parent.connection_string").unwrap_or(&Origin::BuiltIn);
        return Ok(Some((parent.connection_string.reveal().to_owned(), origin.clone())));
    }
    let name = "ACR_REGISTRY_CONNECTION_STRING";
    let text = merge.variables.get(name).filter(|text| !text.trim().is_empty());
    Ok(text.map(|text| (text.clone(), Origin::Environment(name.to_owned()))))
}

/// Resolves `ParentGatewayEndpoint=$NAME[:port]` from the environment: images ship without the
/// name of their parent. The password is never expanded.
fn expand(merge: &Merge<'_>, text: &str) -> Result<String, String> {
    const PREFIX: &str = "ParentGatewayEndpoint=$";
    let mut parts = Vec::new();
    for part in text.split(';') {
        let Some(reference) = part.trim().strip_prefix(PREFIX) else {
            parts.push(part.to_owned());
            continue;
        };
        let end = reference.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let (name, rest) = reference.split_at(end.unwrap_or(reference.len()));
        let value = merge.variables.get(name).filter(|value| !value.is_empty());
        let value = value.ok_or_else(|| {
            format!("ParentGatewayEndpoint names the environment variable {name}, which is not set")
        })?;
        parts.push(format!("ParentGatewayEndpoint={value}{rest}"));
    }
    Ok(parts.join(";"))
}

fn oci_parent(merge: &Merge<'_>) -> Result<(), ConfigError> {
    let has_url = merge.config.parent.as_ref().is_some_and(|parent| parent.url.is_some());
    if has_url {
        return Ok(());
    }
    Err(ConfigError("parent.url: a parent of kind \"oci\" needs the registry's URL".to_owned()))
}

fn gateway_endpoint(merge: &mut Merge<'_>) -> Result<(), ConfigError> {
    const KEY: &str = "parent.gateway_endpoint";
    const NAME: &str = "ACR_PARENT_GATEWAY_ENDPOINT";
    let value = merge.variables.get(NAME).filter(|value| !value.is_empty()).cloned();
    if let (Some(parent), Some(value)) = (&mut merge.config.parent, value)
        && parent.gateway_endpoint.is_none()
    {
        parent.gateway_endpoint = Some(value);
        merge.origins.insert(KEY, Origin::Environment(NAME.to_owned()));
    }
    let endpoint = merge.config.parent.as_ref().and_then(|p| p.gateway_endpoint.as_deref());
    if let Some((endpoint, fault)) = endpoint.and_then(|one| Some((one, endpoint::fault(one)?))) {
        let origin = merge.origins.get(KEY).unwrap_or(&Origin::BuiltIn);
        return Err(ConfigError::at(origin, KEY, format!("\"{endpoint}\" {fault}")));
    }
    Ok(())
}

/// A flag, what the service manager made, a key, Azure's variable, then the default. A key that
/// names another directory than the service manager made is refused: the verbs that are run from a
/// shell, `restore` among them, follow the key.
fn state_dir(merge: &mut Merge<'_>) -> Result<(), ConfigError> {
    const KEY: &str = "storage.state_dir";
    let variable = |name: &str| merge.variables.get(name).filter(|value| !value.is_empty());
    // systemd joins several directories with colons; the first is ours.
    let managed =
        variable("STATE_DIRECTORY").and_then(|list| list.split(':').next()).map(PathBuf::from);
    let volume = variable("ACR_REGISTRY_DATA_VOLUME").map(PathBuf::from);
    let environment = |name: &str| Some(Origin::Environment(name.to_owned()));
    let origin = merge.origins.get(KEY);
    let written = &merge.config.storage.state_dir;
    let (path, origin) = match (origin, managed, volume) {
        (Some(Origin::Flag), _, _) => return Ok(()),
        (Some(origin), Some(path), _) if path != *written => {
            let message = format!(
                "is {}, but the service manager gives this service {} ($STATE_DIRECTORY); {}",
                written.display(),
                path.display(),
                managed_cure(written, &path)
            );
            return Err(ConfigError::at(origin, KEY, message));
        }
        (_, Some(path), _) => (path, environment("STATE_DIRECTORY")),
        (Some(_), None, _) => return Ok(()),
        (None, None, Some(path)) => (path, environment("ACR_REGISTRY_DATA_VOLUME")),
        (None, None, None) if merge.has_files => (PathBuf::from(STATE_DIR), None),
        (None, None, None) => (PathBuf::from(STATE_DIR_WITHOUT_CONFIG), None),
    };
    merge.config.storage.state_dir = path;
    if let Some(origin) = origin {
        merge.origins.insert(KEY, origin);
    }
    Ok(())
}

/// How the state of a service of systemd comes to be elsewhere than its unit says.
fn managed_cure(written: &Path, managed: &Path) -> String {
    let (written, managed) = (written.display(), managed.display());
    format!(
        "remove the key and mount the disk for the state at {managed}, or, in a drop-in of the \
         unit, write StateDirectory= without a value and ReadWritePaths={written}, which must \
         belong to the user of the service"
    )
}

/// Why a service may not start with the state directory that verbs use from a shell. A file of
/// `--config` is one that the shipped unit does not read.
pub(super) fn unmanaged_state_dir(loaded: &Loaded) -> Option<String> {
    let origin = loaded.origin("storage.state_dir");
    let Origin::File(file, _) = origin else {
        return None;
    };
    let places = [BOARD_FILE, VENDOR_DIR, MAIN_FILE, LOCAL_DIR, RUNTIME_DIR];
    let is_read = places.iter().any(|place| file.starts_with(place));
    let (written, managed) = (&loaded.config.storage.state_dir, Path::new(STATE_DIR));
    (is_read && written != managed).then(|| {
        format!(
            "storage.state_dir ({origin}) is {}, where a service does not start (exit code 78) \
             whose unit has StateDirectory=, as skerry.service has it for {}; {}",
            written.display(),
            managed.display(),
            managed_cure(written, managed)
        )
    })
}

fn admin_socket(merge: &mut Merge<'_>) -> Result<(), ConfigError> {
    const KEY: &str = "listen.admin";
    if !merge.origins.contains_key(KEY) {
        let variable = merge.variables.get("RUNTIME_DIRECTORY").filter(|value| !value.is_empty());
        let managed = variable.and_then(|list| list.split(':').next()).map(PathBuf::from);
        let origin = managed.as_ref().map(|_| "RUNTIME_DIRECTORY".to_owned());
        let dir = managed.unwrap_or_else(|| merge.config.storage.state_dir.clone());
        merge.config.listen.admin = dir.join("admin.sock");
        if let Some(name) = origin {
            merge.origins.insert(KEY, Origin::Environment(name));
        }
    }
    let path = &merge.config.listen.admin;
    if path.as_os_str().len() > SOCKET_PATH_MAX {
        let origin = merge.origins.get(KEY).unwrap_or(&Origin::BuiltIn);
        let shown = path.display();
        return Err(ConfigError::at(
            origin,
            KEY,
            format_args!("{shown} is longer than {SOCKET_PATH_MAX} bytes; set a shorter path"),
        ));
    }
    Ok(())
}

/// Azure's certificate directory: used when it holds a certificate and nothing else is set.
fn certificate_volume(merge: &mut Merge<'_>) -> Result<(), ConfigError> {
    const NAME: &str = "ACR_REGISTRY_CERTIFICATE_VOLUME";
    let Some(dir) = merge.variables.get(NAME).filter(|value| !value.is_empty()) else {
        return Ok(());
    };
    if ["tls.mode", "tls.certificate"].iter().any(|key| merge.origins.contains_key(key)) {
        return Ok(());
    }
    let files = ["tls.crt", "tls.key"].map(|name| Path::new(dir).join(name));
    for file in &files {
        let found = merge.source.read(file).map_err(|error| {
            ConfigError(format!("environment {NAME}: cannot read {}: {error}", file.display()))
        })?;
        if found.is_none() {
            return Ok(());
        }
    }
    let [certificate, private_key] = files;
    merge.config.tls.mode = TlsMode::Files;
    merge.config.tls.certificate = Some(certificate);
    merge.config.tls.private_key = Some(private_key);
    for key in ["tls.mode", "tls.certificate", "tls.private_key"] {
        merge.origins.insert(key, Origin::Environment(NAME.to_owned()));
    }
    Ok(())
}

fn fault(loaded: &Loaded, key: &str, message: impl std::fmt::Display) -> ConfigError {
    ConfigError::at(loaded.origin(key), key, message)
}

fn check_role(loaded: &Loaded) -> Result<(), ConfigError> {
    let Config { registry, parent, .. } = &loaded.config;
    if registry.role != RoleSetting::Root || parent.is_none() {
        return Ok(());
    }
    let file_key = loaded.origins.get_key_value("parent.connection_string_file");
    let first = || loaded.origins.iter().find(|(key, _)| key.starts_with("parent."));
    let cause = match file_key.or_else(first) {
        Some((key, origin)) => format!("[parent] ({key}, {origin}) makes"),
        None => "[parent] or a connection string makes".to_owned(),
    };
    let cure = file_key.and_then(|(_, origin)| replacement(origin)).unwrap_or_default();
    let message = format!(
        "is \"root\", and {cause} this node a connected registry; remove one of them{cure}"
    );
    Err(fault(loaded, "registry.role", message))
}

/// How a device takes away a file of the image's maker.
fn replacement(origin: &Origin) -> Option<String> {
    let Origin::File(path, _) = origin else {
        return None;
    };
    let own = Path::new(LOCAL_DIR).join(path.strip_prefix(VENDOR_DIR).ok()?);
    Some(format!(" ({} takes the place of that file)", own.display()))
}

fn check_tls(loaded: &Loaded) -> Result<(), ConfigError> {
    let Config { tls, listen, .. } = &loaded.config;
    for (key, file) in
        [("tls.certificate", &tls.certificate), ("tls.private_key", &tls.private_key)]
    {
        if file.is_some() && !loaded.origins.contains_key("tls.mode") {
            let message = "is not used without a mode; write tls.mode = \"files\" to use it, or \
                           tls.mode = \"off\" for plain listeners";
            return Err(fault(loaded, key, message));
        }
    }
    if tls.mode == TlsMode::Files {
        for (key, file) in
            [("tls.certificate", &tls.certificate), ("tls.private_key", &tls.private_key)]
        {
            if file.is_none() {
                return Err(fault(loaded, "tls.mode", format_args!("\"files\" needs {key}")));
            }
        }
    }
    for (key, listeners) in [("listen.login", &listen.login), ("listen.gateway", &listen.gateway)] {
        if tls.mode == TlsMode::Off && listeners.iter().any(|l| l.tls == Some(true)) {
            let message = "tls = true needs tls.mode \"self-signed\" or \"files\"";
            return Err(fault(loaded, key, message));
        }
    }
    Ok(())
}

fn idle_certificate(loaded: &Loaded, warnings: &mut Vec<String>) {
    if loaded.config.tls.mode == TlsMode::Files {
        return;
    }
    for key in ["tls.certificate", "tls.private_key"] {
        if let Some(origin) = loaded.origins.get(key) {
            warnings.push(format!("{key} has no effect without tls.mode = \"files\" ({origin})"));
        }
    }
}

/// Two listeners of one address, or of one that the other includes: the second would find the first
/// one there.
fn check_addresses(loaded: &Loaded) -> Result<(), ConfigError> {
    // Whether this is a root may be for the store to say, see [`Config::check_addresses`].
    let role = loaded.config.named_role().unwrap_or(Role::Connected);
    let found = overlapping(&loaded.config.listen, role);
    found.map_or(Ok(()), |(key, message)| Err(fault(loaded, key, message)))
}

impl Config {
    /// Tells of addresses of which a node in this role cannot listen on both, with their key.
    pub fn check_addresses(&self, role: Role) -> Result<(), String> {
        let found = overlapping(&self.listen, role);
        found.map_or(Ok(()), |(key, message)| Err(format!("{key}: {message}")))
    }
}

/// Addresses of a node in this role that take each other's place, and the key of the second. Only a
/// root has a gateway of its own.
fn overlapping(listen: &Listen, role: Role) -> Option<(&'static str, String)> {
    let gateways = listen.gateway.iter().filter(|_| role == Role::Root);
    let mut seen = Vec::new();
    let logins = listen.login.iter().map(|one| ("listen.login", one));
    for (key, one) in logins.chain(gateways.map(|one| ("listen.gateway", one))) {
        let address = one.address;
        if let Some(other) = seen.iter().find(|other| overlap(**other, address)) {
            let message = match *other == address {
                true => format!("{address} is used twice; give each listener its own"),
                false => format!("{address} and {other} overlap; give each listener its own"),
            };
            return Some((key, message));
        }
        seen.push(one.address);
    }
    None
}

/// Whether both cannot be listened on.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let scope = |address: SocketAddr| match address {
        SocketAddr::V6(v6) => v6.scope_id(),
        SocketAddr::V4(_) => 0,
    };
    // An address of one link stands for another machine on each link.
    let (link, other_link) = (scope(one), scope(other));
    let is_elsewhere = link != 0 && other_link != 0 && link != other_link;
    let (a, b) = (one.ip(), other.ip());
    let is_one = answers_at(a, b) || answers_at(b, a);
    one.port() != 0 && one.port() == other.port() && is_one && !is_elsewhere
}

fn check_names(loaded: &Loaded) -> Result<(), ConfigError> {
    let registry = &loaded.config.registry;
    let name = &registry.name;
    if !(5..=50).contains(&name.len()) || !name.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Err(fault(loaded, "registry.name", "must be 5 to 50 letters or digits"));
    }
    let suffix = registry.suffix.as_ref().map(|suffix| ("registry.suffix", suffix));
    for (key, text) in [("registry.region", &registry.region)].into_iter().chain(suffix) {
        // RFC 1123, section 2.1.
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        if !text.split('.').all(is_label) {
            let message = "must be part of a host name, such as \"reg.example\"";
            return Err(fault(loaded, key, message));
        }
    }
    let servers = [
        ("registry.login_server", &registry.login_server),
        ("registry.gateway_server", &registry.gateway_server),
    ];
    for (key, server) in servers {
        let bad = |b: u8| !b.is_ascii_graphic() || matches!(b, b'/' | b'"' | b',' | b'@' | b';');
        if server.as_ref().is_some_and(|text| text.is_empty() || text.bytes().any(bad)) {
            let message = "must be a host with or without a port, such as \"reg.example:5000\"";
            return Err(fault(loaded, key, message));
        }
    }
    Ok(())
}

fn check_ranges(loaded: &Loaded) -> Result<(), ConfigError> {
    let Config { listen, limits, tokens, .. } = &loaded.config;
    let counts = [
        ("listen.threads", listen.threads, THREADS_MAX),
        ("limits.blocking_threads", limits.blocking_threads, THREADS_MAX),
        ("limits.connections", limits.connections, CONNECTIONS_MAX),
        ("limits.uploads", limits.uploads, UPLOADS_MAX),
    ];
    for (key, count, max) in counts {
        if !(1..=max).contains(&count) {
            return Err(fault(loaded, key, format_args!("must be from 1 to {max}, not {count}")));
        }
    }
    let day = Duration::from_secs(86_400);
    let times = [
        ("tokens.access_lifetime", tokens.access_lifetime, day, "24 hours"),
        ("tokens.refresh_lifetime", tokens.refresh_lifetime, 30 * day, "30 days"),
    ];
    if loaded.config.gc.grace > 30 * day {
        return Err(fault(loaded, "gc.grace", "must be at most 30 days"));
    }
    let occurs = loaded.config.gc.schedule.check_occurs(EARLIEST_TIME, "no garbage is collected");
    occurs.map_err(|error| fault(loaded, "gc.schedule", error))?;
    if loaded.config.scrub.rate < ByteSize(64 << 10) {
        return Err(fault(loaded, "scrub.rate", "must be at least 64KiB, per second"));
    }
    if !(Duration::from_secs(3600)..=366 * day).contains(&loaded.config.scrub.max_age) {
        return Err(fault(loaded, "scrub.max_age", "must be from 1 hour to 366 days"));
    }
    for (key, time, max, shown) in times {
        if !(Duration::from_secs(60)..=max).contains(&time) {
            return Err(fault(loaded, key, format_args!("must be from 1 minute to {shown}")));
        }
    }
    // Half of it serves those who have logged in, who send the largest bodies.
    let (least, most) = (ByteSize(2 * MANIFEST_BYTES_MAX), ByteSize(1 << 30));
    if !(least..=most).contains(&limits.body_memory) {
        let text = format!("must be from {least}, twice the largest body, to {most}");
        return Err(fault(loaded, "limits.body_memory", text));
    }
    if !(ByteSize(1 << 20)..=ByteSize(1 << 30)).contains(&limits.index_cache) {
        return Err(fault(loaded, "limits.index_cache", "must be from 1MiB to 1GiB"));
    }
    Ok(())
}

fn check_memory(loaded: &Loaded) -> Result<(), ConfigError> {
    let Some(memory) = loaded.config.limits.memory else {
        return Ok(());
    };
    let plan = MemoryPlan::of(&loaded.config);
    if plan.total() <= memory.0 {
        return Ok(());
    }
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    Err(fault(
        loaded,
        "limits.memory",
        format_args!(
            "{memory} is less than the {} MiB that the limits may need ({} MiB at rest, {} MiB \
             index cache, {} MiB connections, {} MiB bodies, {} MiB threads); lower \
             limits.connections or limits.body_memory",
            mib(plan.total()),
            mib(plan.fixed),
            mib(plan.cache),
            mib(plan.connections),
            mib(plan.bodies),
            mib(plan.threads),
        ),
    ))
}
