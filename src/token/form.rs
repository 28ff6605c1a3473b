//! `application/x-www-form-urlencoded` bodies (WHATWG URL, section 5.1).

/// The fields of a form.
pub(super) struct Form(Vec<(String, String)>);

impl Form {
    /// Parses a body; `None` when an escape is broken or the text is not UTF-8.
    pub(super) fn parse(body: &[u8]) -> Option<Form> {
        let mut fields = Vec::new();
        for pair in body.split(|b| *b == b'&').filter(|pair| !pair.is_empty()) {
            let mut halves = pair.splitn(2, |b| *b == b'=');
            let name = decode(halves.next().unwrap_or_default())?;
            let value = decode(halves.next().unwrap_or_default())?;
            fields.push((name, value));
        }
        Some(Form(fields))
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

fn decode(text: &[u8]) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digit = |byte: Option<&u8>| char::from(*byte?).to_digit(16);
                let value = digit(rest.next())? * 16 + digit(rest.next())?;
                u8::try_from(value).ok()?
            }
            other => *other,
        });
    }
    String::from_utf8(bytes).ok()
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
        for bad in [&b"a=%"[..], b"a=%2", b"a=%zz", b"a=%ff"] {
            assert!(Form::parse(bad).is_none());
        }
    }
}
