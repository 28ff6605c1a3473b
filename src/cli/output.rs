//! What the commands print: readable text for people, JSON or TSV for programs.

use std::io::{self, BufRead, IsTerminal, Write};

use clap::ValueEnum;
use serde_json::{Map, Value};

use super::Failure;

/// `--output`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum Format {
    /// The answer as it came.
    Json,
    /// Readable text: tables for lists.
    Table,
    /// Values separated by tabs, without a head: the columns of a list, all values of an object.
    Tsv,
}

/// How an answer looks for people.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum View {
    /// Lines of `field: value`.
    Object,
    /// The same, with passwords that are shown this once.
    Credentials,
    /// `NAME=value` lines, to be used as an environment file.
    Settings,
    /// Of the same nothing but the connection string.
    ConnectionString,
    /// A file, as it is.
    Certificate,
    /// A table.
    ScopeMaps,
    /// A table.
    Tokens,
    /// A table.
    ConnectedRegistries,
    /// A table.
    Audit,
    /// Names, one on a line.
    Repositories,
    /// Names, one on a line.
    TagNames,
    /// A table.
    Tags,
    /// A table.
    Manifests,
}

/// A column: its head and where its value is, the first that exists.
type Column = (&'static str, &'static [&'static str]);

impl View {
    fn columns(self) -> &'static [Column] {
        match self {
            View::ScopeMaps => &[
                ("NAME", &["/name"]),
                ("CREATED", &["/creationDate"]),
                ("DESCRIPTION", &["/description"]),
            ],
            View::Tokens => &[
                ("NAME", &["/name"]),
                ("SCOPE MAP", &["/scopeMapId", "/scopeMap"]),
                ("STATUS", &["/status"]),
                ("CREATED", &["/creationDate"]),
            ],
            View::ConnectedRegistries => &[
                ("NAME", &["/name"]),
                ("MODE", &["/mode"]),
                ("CONNECTION STATE", &["/connectionState"]),
                ("PARENT", &["/parent/id", "/parent/name"]),
                ("LOGIN SERVER", &["/loginServer/host"]),
                ("LAST SYNC (UTC)", &["/lastSyncTime", "/parent/syncProperties/lastSyncTime"]),
            ],
            View::Audit => &[
                ("TIME (UTC)", &["/time"]),
                ("ACTOR", &["/actor"]),
                ("ACTION", &["/action"]),
                ("SUBJECT", &["/subject"]),
                ("OUTCOME", &["/outcome"]),
            ],
            View::Repositories => &[("REPOSITORY", &[""])],
            View::TagNames => &[("TAG", &[""])],
            View::Tags => &[
                ("TAG", &["/name"]),
                ("DIGEST", &["/digest"]),
                ("CREATED", &["/createdTime"]),
                ("CHANGED", &["/lastUpdateTime"]),
            ],
            View::Manifests => &[
                ("DIGEST", &["/digest"]),
                ("TAGS", &["/tags"]),
                ("SIZE", &["/imageSize"]),
                ("OS", &["/os"]),
                ("ARCHITECTURE", &["/architecture"]),
                ("NEEDED", &["/needed"]),
                ("SUBJECT", &["/subject"]),
                ("PUSHED", &["/createdTime"]),
            ],
            View::Object
            | View::Credentials
            | View::Settings
            | View::ConnectionString
            | View::Certificate => &[],
        }
    }
}

/// Prints an answer, and what it warns of.
pub(super) fn answer(view: View, mut value: Value, format: Option<Format>) -> Result<(), Failure> {
    if let Some(Value::Array(warnings)) = value.as_object_mut().and_then(|o| o.remove("warnings")) {
        for warning in warnings.iter().filter_map(Value::as_str) {
            complain(&format!("warning: {warning}"));
        }
    }
    // Nothing but what it warns of.
    if value.is_null() || value.as_object().is_some_and(Map::is_empty) {
        return Ok(());
    }
    print(&render(view, &value, format.unwrap_or(Format::Table)))?;
    let has_passwords = value.pointer("/credentials").or(value.pointer("/syncToken/credentials"));
    if view == View::Credentials && (has_passwords.is_some() || value.get("passwords").is_some()) {
        complain("the passwords are shown only this once; keep them safe");
    }
    Ok(())
}

fn render(view: View, value: &Value, format: Format) -> String {
    match (format, value) {
        (Format::Json, value) => json(value),
        (Format::Table, Value::Array(rows)) => table(view.columns(), rows),
        (Format::Tsv, Value::Array(rows)) => {
            rows.iter().map(|row| cells(view.columns(), row).join("\t") + "\n").collect()
        }
        (Format::Table | Format::Tsv, value) if view == View::ConnectionString => {
            scalar(&value["ACR_REGISTRY_CONNECTION_STRING"]).unwrap_or_default() + "\n"
        }
        (Format::Table | Format::Tsv, Value::Object(fields)) if view == View::Certificate => {
            let lines = fields.values().filter_map(Value::as_str).flat_map(str::lines);
            let lines = lines.filter_map(|line| scalar(&line.into()));
            lines.map(|line| line + "\n").collect()
        }
        (Format::Tsv, value @ Value::Object(_)) => {
            let mut cells = Vec::new();
            leaves(value, &mut cells);
            cells.join("\t") + "\n"
        }
        (Format::Table, Value::Object(fields)) if view == View::Settings => {
            let line = |(name, value)| format!("{name}={}\n", scalar(value).unwrap_or_default());
            fields.iter().map(line).collect()
        }
        (Format::Table, value @ Value::Object(_)) => {
            let mut text = String::new();
            lines(value, 0, &mut text);
            text
        }
        (Format::Table | Format::Tsv, other) => scalar(other).unwrap_or_default() + "\n",
    }
}

/// Without a character that steers a terminal: JSON itself leaves some of them as they are.
fn json(value: &Value) -> String {
    let mut text = String::new();
    for character in format!("{value:#}\n").chars() {
        match character {
            '\u{7f}'..='\u{9f}' => text.push_str(&format!("\\u{:04x}", u32::from(character))),
            other => text.push(other),
        }
    }
    text
}

fn table(columns: &[Column], rows: &[Value]) -> String {
    let head: Vec<String> = columns.iter().map(|(title, _)| (*title).to_owned()).collect();
    let body = rows.iter().map(|row| cells(columns, row));
    let all: Vec<Vec<String>> = std::iter::once(head).chain(body).collect();
    let width = |column: usize| all.iter().map(|row| row[column].chars().count()).max();
    // A wider one cannot be formatted.
    let width = |column: usize| width(column).unwrap_or(0).min(usize::from(u16::MAX));
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    all.iter().map(line).collect()
}

fn cells(columns: &[Column], row: &Value) -> Vec<String> {
    let cell = |(_, pointers): &Column| {
        let found = pointers.iter().find_map(|pointer| row.pointer(pointer));
        found.and_then(scalar).unwrap_or_default()
    };
    if columns.is_empty() {
        return vec![scalar(row).unwrap_or_else(|| row.to_string())];
    }
    columns.iter().map(cell).collect()
}

/// A value on one line. A resource id is shown by its last part, the name. Control characters
/// are shown, not sent to the terminal.
fn scalar(value: &Value) -> Option<String> {
    let text = match value {
        Value::Null => return None,
        Value::String(text) if text.starts_with("/subscriptions/") => {
            text.rsplit('/').next().unwrap_or(text).to_owned()
        }
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(items) => {
            let items: Option<Vec<String>> = items.iter().map(scalar).collect();
            items?.join(", ")
        }
        Value::Object(_) => return None,
    };
    let escape = |c: char| match c.is_control() {
        true => c.escape_default().collect::<String>(),
        false => c.to_string(),
    };
    Some(text.chars().map(escape).collect())
}

/// Every value at any depth, in order; one that is not set keeps its place. A password that is
/// shown once stands deep in its answer.
fn leaves(value: &Value, cells: &mut Vec<String>) {
    match value {
        Value::Object(fields) => fields.values().for_each(|value| leaves(value, cells)),
        Value::Array(items) => items.iter().for_each(|item| leaves(item, cells)),
        other => cells.push(scalar(other).unwrap_or_default()),
    }
}

/// `field: value` lines, deeper ones indented; fields without a value are left out.
fn lines(value: &Value, depth: usize, text: &mut String) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if let Some(value) = scalar(value) {
                    text.push_str(&format!("{indent}{name}: {value}\n"));
                } else if !value.is_null() {
                    text.push_str(&format!("{indent}{name}:\n"));
                    lines(value, depth + 1, text);
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                let mut inner = String::new();
                lines(item, depth + 1, &mut inner);
                // The first line of an item carries its dash in place of the indentation.
                let inner = inner.trim_start();
                text.push_str(&format!("{indent}- {inner}"));
            }
        }
        other => text.push_str(&format!("{indent}{}\n", scalar(other).unwrap_or_default())),
    }
}

/// Writes to stdout. A reader that has gone away, as `head` does, ends the output quietly.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("cannot write the output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Writes `skerry: <message>` to stderr; there is nowhere to tell that this failed.
pub(super) fn complain(message: &str) {
    // In one call: others may write to the same terminal or journal.
    let _ = io::stderr().lock().write_all(format!("skerry: {message}\n").as_bytes());
}

/// Asks on the terminal. Without one nobody can answer, and a script must say `--yes`.
pub(super) fn confirm(question: &str) -> Result<bool, Failure> {
    let input = io::stdin();
    if !input.is_terminal() {
        return Err(Failure::new(format!("{question} There is no terminal to ask: use --yes")));
    }
    let mut error_output = io::stderr().lock();
    let _ = write!(error_output, "{question} (y/n): ");
    let _ = error_output.flush();
    let mut line = String::new();
    input.lock().read_line(&mut line).map_err(|error| Failure::new(error.to_string()))?;
    Ok(matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lists_are_tables() {
        let id = "/subscriptions/s/resourceGroups/g/x/connectedRegistries/parent1";
        let rows = json!([
            { "name": "dock01", "mode": "ReadOnly", "connectionState": "Online",
              "parent": { "id": id }, "loginServer": { "host": "dock:5000" } },
            { "name": "d", "mode": "ReadWrite", "connectionState": "Offline" },
        ]);
        let text = render(View::ConnectedRegistries, &rows, Format::Table);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[0].starts_with("NAME    MODE       CONNECTION STATE  PARENT"));
        assert!(lines[1].contains("parent1") && lines[1].contains("dock:5000"));
        assert_eq!(lines[2], "d       ReadWrite  Offline");
        let text = render(View::ConnectedRegistries, &rows, Format::Tsv);
        assert_eq!(text.lines().next(), Some("dock01\tReadOnly\tOnline\tparent1\tdock:5000\t"));
        let text = render(View::Tokens, &json!([]), Format::Table);
        assert_eq!(text.lines().count(), 1);
    }

    #[test]
    fn objects_are_lines() {
        let value = json!({
            "name": "tok-1", "none": null, "actions": ["a", "b"],
            "credentials": { "passwords": [
                { "name": "password1", "value": "x" }, { "name": "password2", "value": "y" },
            ]},
        });
        assert_eq!(
            render(View::Object, &value, Format::Table),
            "actions: a, b\ncredentials:\n  passwords:\n    - name: password1\n      value: x\n    \
             - name: password2\n      value: y\nname: tok-1\n"
        );
    }

    #[test]
    fn f049_tsv_has_every_value_of_an_object() {
        let value = json!({
            "credentials": { "passwords": [{ "expiry": null, "name": "password1", "value": "x" }] },
            "name": "tok-1", "scopes": ["a", "b\tc"], "tls": true,
        });
        let text = render(View::Credentials, &value, Format::Tsv);
        assert_eq!(text, "\tpassword1\tx\ttok-1\ta\tb\\tc\ttrue\n");
    }

    #[test]
    fn settings_are_an_environment_file() {
        let value = json!({ "ACR_REGISTRY_CONNECTION_STRING": "A=b;C==d" });
        let text = render(View::Settings, &value, Format::Table);
        assert_eq!(text, "ACR_REGISTRY_CONNECTION_STRING=A=b;C==d\n");
        for format in [Format::Table, Format::Tsv] {
            assert_eq!(render(View::ConnectionString, &value, format), "A=b;C==d\n");
        }
    }

    #[test]
    fn a_value_cannot_steer_the_terminal() {
        let value = json!({ "description": "a\u{1b}[2Jb" });
        assert_eq!(render(View::Object, &value, Format::Table), "description: a\\u{1b}[2Jb\n");
        let text = render(View::Object, &json!("a\u{9b}2J\u{e4}"), Format::Json);
        assert_eq!(text, "\"a\\u009b2J\u{e4}\"\n");
    }
}
