//! The shape of the source: which module may use which, and how it is written.

use std::collections::{BTreeMap, BTreeSet};

use crate::repo::{files, read};

/// Longest source file, lines.
const LINES_MAX: usize = 800;
/// Longest line, characters.
const COLUMNS_MAX: usize = 100;

/// What each module may use beside itself, `sys` and `types`.
const EDGES: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("sys", &[]),
    ("store", &[]),
    ("http", &[]),
    ("config", &[]),
    ("auth", &["store"]),
    ("registry", &["auth", "store", "http"]),
    ("token", &["auth", "store", "http"]),
    ("gateway", &["auth", "store", "http"]),
    ("sync", &["gateway", "store", "http"]),
    ("manage", &["sync", "gateway", "store", "auth"]),
    ("admin", &["manage", "sync", "gateway", "store", "auth", "http"]),
    (
        "app",
        &[
            "config", "store", "http", "auth", "registry", "token", "gateway", "sync", "manage",
            "admin",
        ],
    ),
    ("cli", &["app", "config", "http"]),
    ("fuzz", &["config", "store", "http", "registry", "token", "gateway"]),
];

fn may_use(from: &str, to: &str) -> bool {
    let (_, listed) = EDGES
        .iter()
        .find(|(module, _)| *module == from)
        .unwrap_or_else(|| panic!("the module {from} is not on the map"));
    let base = match from {
        "types" => false,
        "sys" => to == "types",
        _ => to == "sys" || to == "types",
    };
    from == to || base || listed.contains(&to)
}

fn sources() -> Vec<String> {
    let rust = |file: &String| file.ends_with(".rs");
    files("src").into_iter().filter(rust).collect()
}

/// The source without comments and the contents of strings, so that words in them do not count.
fn code(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(len) = string_literal(rest) {
            out.push_str("\"\"");
            len
        } else if let Some(len) = char_literal(rest) {
            len
        } else {
            out.push(c);
            c.len_utf8()
        };
        rest = &rest[skipped..];
    }
    out
}

/// Length of the string literal at the start, plain or raw.
fn string_literal(text: &str) -> Option<usize> {
    if let Some(raw) = text.strip_prefix('r') {
        let hashes = raw.bytes().take_while(|b| *b == b'#').count();
        let body = raw[hashes..].strip_prefix('"')?;
        let close = format!("\"{}", "#".repeat(hashes));
        let end = body.find(&close)?;
        return Some(1 + hashes + 1 + end + close.len());
    }
    let body = text.strip_prefix('"')?;
    let mut escaped = false;
    for (index, byte) in body.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some(index + 2),
            _ => {}
        }
    }
    Some(text.len())
}

/// Length of the character literal at the start; a lifetime is none.
fn char_literal(text: &str) -> Option<usize> {
    let body = text.strip_prefix('\'')?;
    let mut chars = body.char_indices();
    let (_, first) = chars.next()?;
    if first != '\\' {
        let (end, quote) = chars.next()?;
        return (quote == '\'').then_some(end + 2);
    }
    chars.next()?;
    body.char_indices().skip(2).find(|(_, c)| *c == '\'').map(|(end, _)| end + 2)
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// The names after `prefix`, as `a` and `b` in `crate::a` and `crate::{a, b::c}`, anywhere in the
/// code.
fn named_after(prefix: &str, code: &str) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    for (at, _) in code.match_indices(prefix) {
        // `$crate::` and `skerry_crate::` are something else.
        if code[..at].ends_with(|c: char| is_word(c) || c == '$') {
            continue;
        }
        let rest = &code[at + prefix.len()..];
        match rest.strip_prefix('{') {
            None => {
                named.insert(rest.chars().take_while(|c| is_word(*c)).collect());
            }
            Some(list) => named.extend(first_names(list)),
        }
    }
    named.remove("");
    named
}

/// The first name of each item of a `{...}` list whose opening brace is already taken.
fn first_names(list: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut name = String::new();
    let mut depth = 1;
    let mut taken = false;
    for c in list.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => taken = false,
            c if depth == 1 && !taken && is_word(c) => {
                name.push(c);
                continue;
            }
            _ => {}
        }
        if !name.is_empty() {
            names.push(std::mem::take(&mut name));
            taken = true;
        }
        if c == ',' && depth == 1 {
            taken = false;
        }
        if depth == 0 {
            break;
        }
    }
    names
}

fn module_of(file: &str) -> Option<String> {
    let inside = file.strip_prefix("src/")?;
    let module = inside.split(['/', '.']).next()?;
    (!matches!(module, "lib" | "main")).then(|| module.to_owned())
}

#[test]
fn modules_use_only_what_stands_below_them() {
    let known: BTreeSet<&str> = EDGES.iter().map(|(module, _)| *module).collect();
    let mut wrong = Vec::new();
    for file in sources() {
        let Some(from) = module_of(&file) else {
            continue;
        };
        for to in named_after("crate::", &code(&read(&file))) {
            if known.contains(to.as_str()) && !may_use(&from, &to) {
                wrong.push(format!("{file} uses {to}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The rules of management stand once: a front end has no way around them.
#[test]
fn front_ends_change_the_tree_through_manage() {
    let is_front_end = |file: &String| file.starts_with("src/admin/") && !file.contains("/tests");
    let around = |file: &String| code(without_tests(&read(file))).contains("store::tree");
    let wrong: Vec<String> = sources().into_iter().filter(is_front_end).filter(around).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// A folder of a module, and which of those listed before it may be used there.
type Folder = (&'static str, &'static [&'static str]);

/// The modules that have folders. Files beside the folders stand above all of them, except those in
/// [`BELOW`].
const FOLDERS: &[(&str, &[Folder])] = &[
    (
        "store",
        &[
            ("rows", &[]),
            ("index", &[]),
            ("journal", &["rows", "index"]),
            ("recovery", &["rows", "index", "journal"]),
            ("replica", &["rows", "index", "journal"]),
            ("content", &["rows", "index", "journal", "replica"]),
            ("registry", &["rows", "index", "journal", "replica", "content"]),
            ("tree", &["rows", "journal", "replica"]),
        ],
    ),
    (
        "http",
        &[
            ("message", &[]),
            ("wire", &["message"]),
            ("server", &["message", "wire"]),
            ("client", &["message", "wire"]),
        ],
    ),
    ("gateway", &[("wire", &[]), ("downstream", &["wire"]), ("upstream", &["wire"])]),
];

/// A file beside the folders of a module that any of them may use, and why it may.
type Below = (&'static str, &'static str, &'static str);

/// The files beside the folders that stand below all of them.
const BELOW: &[Below] =
    &[("store", "error", "each part of the store fails with a StoreError, also mod.rs")];

/// What stands beside those folders: tests, and what they read.
const BESIDE: &[&str] = &["tests", "golden"];

/// The source in front of its first test module.
fn without_tests(text: &str) -> &str {
    text.find("#[cfg(test)]\n").map_or(text, |at| &text[..at])
}

/// What is a file or a folder of a module, and what its `mod.rs` takes from one: where each name
/// after `crate::module::` leads.
fn parts(module: &str) -> BTreeMap<String, String> {
    let start = format!("src/{module}/");
    let mut parts = BTreeMap::new();
    for file in sources() {
        let Some(inside) = file.strip_prefix(&start) else { continue };
        let part = inside.split(['/', '.']).next().unwrap_or_default().to_owned();
        parts.insert(part.clone(), part);
    }
    let text = code(&read(&format!("{start}mod.rs")));
    let lists = text.split(';').filter_map(|item| {
        let words = item.trim_start().strip_prefix("pub ").unwrap_or(item.trim_start());
        words.strip_prefix("use ")
    });
    for list in lists {
        let mut words = list.split(|c: char| !is_word(c)).filter(|word| !word.is_empty());
        let from = words.find(|word| *word != "self").and_then(|first| parts.get(first).cloned());
        if let Some(part) = from {
            for word in words {
                parts.entry(word.to_owned()).or_insert_with(|| part.clone());
            }
        }
    }
    parts
}

/// What stands on the disk is found in one place, apart from what the program works with.
#[test]
fn every_row_is_a_type_of_its_folder() {
    let elsewhere = |file: &String| {
        let is_test = file.contains("/tests/") || file.ends_with("/tests.rs");
        let is_row = || code(without_tests(&read(file))).contains("impl Row for");
        !is_test && !file.starts_with("src/store/rows/") && is_row()
    };
    let wrong: Vec<String> = sources().into_iter().filter(elsewhere).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    for file in files("src/store/rows") {
        let text = read(&file);
        for row in text.split("impl Row for ").skip(1).filter_map(|rest| rest.split(' ').next()) {
            let is_own =
                ["struct", "enum"].iter().any(|kind| text.contains(&format!("{kind} {row}")));
            assert!(is_own, "{file}: {row} is declared elsewhere");
        }
    }
}

#[test]
fn folders_of_a_module_use_only_what_stands_below_them() {
    let (mut wrong, mut excepted) = (BTreeSet::new(), BTreeSet::new());
    for (module, folders) in FOLDERS {
        let parts = parts(module);
        let start = format!("src/{module}/");
        for file in sources() {
            let inside = file.strip_prefix(&start).and_then(|inside| inside.split_once('/'));
            let Some((from, _)) = inside else { continue };
            let Some((_, below)) = folders.iter().find(|(folder, _)| *folder == from) else {
                assert!(BESIDE.contains(&from), "{file}: {from} is not on the map");
                continue;
            };
            let code = code(without_tests(&read(&file)));
            let mut named = named_after(&format!("crate::{module}::"), &code);
            named.append(&mut named_after("super::super::", &code));
            let used: BTreeSet<&str> =
                named.iter().filter_map(|name| parts.get(name)).map(String::as_str).collect();
            for to in used {
                if from == to || below.contains(&to) {
                    continue;
                }
                match BELOW.iter().find(|(of, part, _)| of == module && *part == to) {
                    Some(exception) => excepted.insert(*exception),
                    None => wrong.insert(format!("{file} uses {to}")),
                };
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let needless: Vec<_> = BELOW.iter().filter(|below| !excepted.contains(*below)).collect();
    assert!(needless.is_empty(), "no folder uses {needless:?}");
}

#[test]
fn files_below_the_folders_use_nothing_of_their_module() {
    for (module, part, _) in BELOW {
        let (parts, file) = (parts(module), format!("src/{module}/{part}.rs"));
        let code = code(without_tests(&read(&file)));
        let mut named = named_after(&format!("crate::{module}::"), &code);
        named.append(&mut named_after("super::", &code));
        let used: Vec<_> = named.iter().filter_map(|name| parts.get(name)).collect();
        assert!(used.is_empty(), "{file} uses {used:?}");
    }
}

#[test]
fn the_map_of_the_folders_has_no_circle() {
    for (module, folders) in FOLDERS {
        for (index, (folder, below)) in folders.iter().enumerate() {
            let above = |name: &&&str| !folders[..index].iter().any(|(other, _)| other == *name);
            let wrong: Vec<_> = below.iter().filter(above).collect();
            assert!(wrong.is_empty(), "{module}/{folder} uses {wrong:?}, which is not below it");
        }
    }
}

#[test]
fn files_of_a_folder_do_not_use_each_other_in_a_circle() {
    let folders =
        FOLDERS.iter().flat_map(|(module, all)| all.iter().map(|(name, _)| (*module, *name)));
    for (module, folder) in folders {
        let left = circle(module, folder);
        assert!(left.is_empty(), "{module}/{folder}: {left:?}");
    }
}

/// The files of a folder that use each other in a circle, and those that use these.
fn circle(module: &str, folder: &str) -> BTreeSet<String> {
    let start = format!("src/{module}/{folder}/");
    let file = |path: &String| Some(path.strip_prefix(&start)?.strip_suffix(".rs")?.to_owned());
    let mut left: BTreeSet<String> = sources().iter().filter_map(file).collect();
    left.retain(|name| !name.contains('/') && name != "mod");
    let mut uses = BTreeMap::new();
    for name in &left {
        let code = code(without_tests(&read(&format!("{start}{name}.rs"))));
        let mut used = named_after("super::", &code);
        used.append(&mut named_after(&format!("crate::{module}::{folder}::"), &code));
        used.remove(name);
        uses.insert(name.clone(), used);
    }
    // What uses nothing that is left goes, until nothing is left, or a circle.
    while let Some(leaf) = left.iter().find(|name| uses[*name].is_disjoint(&left)).cloned() {
        left.remove(&leaf);
    }
    left
}

#[test]
fn only_main_uses_the_command_line() {
    for file in sources() {
        let uses = code(&read(&file)).contains("skerry::cli");
        assert_eq!(uses, file == "src/main.rs", "{file}");
    }
    assert!(read("src/main.rs").lines().count() <= 60);
}

#[test]
fn files_are_short_plain_text() {
    let mut wrong = Vec::new();
    for file in sources().into_iter().chain(files("tests")) {
        if !file.ends_with(".rs") {
            continue;
        }
        let text = read(&file);
        let lines = text.lines().count();
        if lines > LINES_MAX {
            wrong.push(format!("{file} has {lines} lines"));
        }
        for (number, line) in (1..).zip(text.lines()) {
            if line.chars().count() > COLUMNS_MAX {
                wrong.push(format!("{file}:{number} has more than {COLUMNS_MAX} columns"));
            }
            if !line.is_ascii() {
                wrong.push(format!("{file}:{number} is not ASCII"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn f209_every_look_up_of_the_index_is_counted() {
    let own = |file: &String| file.starts_with("src/store/index/");
    let mut others = sources().into_iter().filter(|file| !own(file));
    let escapes = others.find(|file| code(&read(file)).contains("_uncounted"));
    assert_eq!(escapes, None, "use get and scan, which count what is read");
}

#[test]
fn nothing_is_left_for_later() {
    // Written apart, so that this file does not find itself.
    let words = [["TO", "DO"], ["FIX", "ME"], ["XX", "X"]].map(|parts| parts.concat());
    let mut wrong = Vec::new();
    let all =
        sources().into_iter().chain(["tests", "systemd", "board"].iter().flat_map(|d| files(d)));
    for file in all {
        let text = read(&file);
        for (number, line) in (1..).zip(text.lines()) {
            let mut found = line.split(|c: char| !is_word(c));
            if found.any(|word| words.iter().any(|w| w == word)) {
                wrong.push(format!("{file}:{number}"));
            }
        }
        if file.starts_with("src/") {
            for call in ["todo!", "unimplemented!"] {
                if code(&text).contains(call) {
                    wrong.push(format!("{file}: {call}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A mutant whose place is gone breaks nothing, and one whose test is gone shows nothing; running
/// all of them takes hours.
#[test]
fn every_mutant_breaks_one_place_that_a_test_is_named_for() {
    let suite = files("tests/suite").into_iter().filter(|file| file.ends_with(".rs"));
    let sources = sources().into_iter().chain(suite);
    let tests: String = sources.map(|file| read(&file)).collect();
    let mut wrong = Vec::new();
    for block in read("tests/mutants.txt").split("\n\n") {
        let mut lines = block.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let (Some(head), Some(file)) = (lines.next(), lines.next()) else { continue };
        let old: Vec<&str> = lines.filter_map(|line| line.strip_prefix('-')).collect();
        let test = head.rsplit("::").next().unwrap_or_default();
        let places = read(file.trim()).matches(&old.join("\n")).count();
        if old.is_empty() || places != 1 || !tests.contains(&format!("fn {test}()")) {
            wrong.push(format!("{head}: in {file} {places} times"));
        }
    }
    assert_eq!(wrong, [""; 0]);
}

#[test]
fn every_limit_is_used() {
    let limits = read("src/types/limits.rs");
    let names: Vec<&str> = limits
        .lines()
        .filter_map(|line| line.strip_prefix("pub const ")?.split(':').next())
        .collect();
    assert!(names.len() > 10);
    let mut uses: BTreeMap<&str, usize> = names.iter().map(|name| (*name, 0)).collect();
    for file in sources().into_iter().filter(|file| file != "src/types/limits.rs") {
        let code = code(&read(&file));
        for word in code.split(|c: char| !is_word(c)) {
            if let Some(count) = uses.get_mut(word) {
                *count += 1;
            }
        }
    }
    let inside = code(&limits);
    let unused: Vec<&str> = names
        .into_iter()
        .filter(|name| {
            let mentioned = inside.split(|c: char| !is_word(c)).filter(|w| w == name).count();
            uses[name] == 0 && mentioned < 2
        })
        .collect();
    assert!(unused.is_empty(), "nobody uses {unused:?}");
}

#[test]
fn the_reader_of_this_test_sees_paths() {
    let text = "use crate::{store::{Store, row}, sys::Sys, types};\n// crate::cli\n\
                let x = \"crate::admin\"; let c = '\"'; crate::http::Reply::new(1);\n\
                r\"crate::a\";\n\
                fn f<'a>(x: &'a str) -> $crate::sync::X { crate::auth::y('\\'') }";
    let used: Vec<String> = named_after("crate::", &code(text)).into_iter().collect();
    assert_eq!(used, ["auth", "http", "store", "sys", "types"]);
}
