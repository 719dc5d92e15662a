//! Reads what a registry wants before it answers: the header `WWW-Authenticate` (RFC 9110, 11.6.1). Pure: text in,
//! values out.

use std::collections::BTreeMap;

/// What a registry asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    /// A token of a login service.
    Bearer {
        /// The address of the service.
        realm: String,
        /// The name that the service has for the registry.
        service: Option<String>,
    },
    /// The user and the password.
    Basic,
}

/// Returns the challenge of a header that can be met, a token before a password.
pub fn read(header: &str) -> Option<Challenge> {
    let mut all = split(header);
    let bearer = all.iter_mut().find(|(scheme, _)| scheme == "bearer");
    match bearer.and_then(|(_, fields)| Some((fields.remove("realm")?, fields.remove("service")))) {
        Some((realm, service)) => Some(Challenge::Bearer { realm, service }),
        None => all.iter().any(|(scheme, _)| scheme == "basic").then_some(Challenge::Basic),
    }
}

/// Splits a header into its challenges: each a scheme, in small letters, with its parameters.
fn split(header: &str) -> Vec<(String, BTreeMap<String, String>)> {
    let mut all: Vec<(String, BTreeMap<String, String>)> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (word, after) = rest.split_at(rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len()));
        if word.is_empty() {
            return all;
        }
        let word = word.to_ascii_lowercase();
        rest = match (after.trim_start().strip_prefix('='), all.last_mut()) {
            (Some(text), Some((_, fields))) => {
                let (text, after) = value(text.trim_start());
                fields.insert(word, text);
                after
            }
            (None, _) => {
                all.push((word, BTreeMap::new()));
                after
            }
            // A parameter without a scheme before it.
            (Some(_), None) => return all,
        };
    }
}

/// Reads a value, which may stand in quotation marks. Returns it and what follows.
fn value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, after) = text.split_at(text.find([' ', '\t', ',']).unwrap_or(text.len()));
        return (value.to_owned(), after);
    };
    let (mut value, mut characters) = (String::new(), quoted.chars());
    while let Some(c) = characters.next() {
        match c {
            '"' => break,
            '\\' => value.extend(characters.next()),
            other => value.push(other),
        }
    }
    (value, characters.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bearer(realm: &str, service: Option<&str>) -> Option<Challenge> {
        Some(Challenge::Bearer { realm: realm.into(), service: service.map(str::to_owned) })
    }

    #[test]
    fn what_registries_ask_for_is_read() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io""#;
        assert_eq!(read(hub), bearer("https://auth.docker.io/token", Some("registry.docker.io")));
        let scoped = r#"bearer service=x, realm="https://a/t?x=1,2" , scope="repository:a:pull,push""#;
        assert_eq!(read(scoped), bearer("https://a/t?x=1,2", Some("x")));
        assert_eq!(read(r#"Basic realm="Registry \"Realm\"", Bearer realm=x"#), bearer("x", None));
        assert_eq!(read(r#"BASIC realm="x""#), Some(Challenge::Basic));
        for nothing in ["", ",", "=", "Negotiate", "Bearer service=x", "realm=x", "Negotiate YWI="] {
            assert_eq!(read(nothing), None, "{nothing}");
        }
    }

    proptest! {
        #[test]
        fn any_header_is_read_to_its_end(header in r#"([a-zA-Z=,"\\ é]|Bearer |realm=){0,40}"#) {
            read(&header);
        }
    }
}
