//! `application/x-www-form-urlencoded` bodies (WHATWG URL, section 5.1).

use crate::http::form_fields;

/// The fields of a form.
pub(super) struct Form(Vec<(String, String)>);

impl Form {
    /// Parses a body; `None` when an escape is broken or the text is not UTF-8.
    pub(super) fn parse(body: &[u8]) -> Option<Form> {
        let text = std::str::from_utf8(body).ok()?;
        form_fields(text).collect::<Option<_>>().map(Form)
    }

    /// The first value of a field.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Every value of a field.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_decode() {
        let form = Form::parse(b"scope=a%3Ab%3apull+c&scope=d&empty=&flag&&p=x%2B%3D%26=").unwrap();
        assert_eq!(form.all("scope").collect::<Vec<_>>(), ["a:b:pull c", "d"]);
        assert_eq!(form.get("p"), Some("x+=&="));
        assert_eq!(
            (form.get("empty"), form.get("flag"), form.get("no")),
            (Some(""), Some(""), None)
        );
        for bad in [&b"a=%"[..], b"a=%2", b"a=%zz", b"a=%ff", b"a=\xff", b"b&%=a"] {
            assert!(Form::parse(bad).is_none());
        }
    }
}
