//! Connection strings in both of libpq's forms, taken apart into keys and
//! values. Only the form is judged here, and no message repeats a value: any
//! of them may be a piece of a password that was not quoted.

use percent_encoding::percent_decode_str;

const FORMS: &str = "expected postgres://USER:PASSWORD@HOST:PORT/DATABASE or key=value pairs";
const ENCODE: &str =
    "in a URL the characters @ / : ? % of a user name or password are written %40 %2F %3A %3F %25";

/// Keys with their values, in the order in which they were written.
pub(super) type Pairs = Vec<(String, String)>;

pub(super) fn split(text: &str) -> Result<Pairs, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err(format!("is empty; {FORMS}"));
    }
    match text.split_once("://") {
        Some(("postgres" | "postgresql", rest)) => from_url(rest),
        Some((scheme, _)) if scheme.chars().all(|c| c.is_ascii_alphanumeric() || c == '+') => {
            Err(format!("has another scheme than postgres://; {FORMS}"))
        }
        _ => from_pairs(text),
    }
}

fn decode(text: &str, what: &str) -> Result<String, String> {
    percent_decode_str(text)
        .decode_utf8()
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| format!("the {what} is not UTF-8 after percent-decoding"))
}

fn from_url(rest: &str) -> Result<Pairs, String> {
    let mut pairs = Pairs::new();
    // Credentials are what stands before an @ that comes before any slash.
    let authority_end = rest.find(['@', '/']);
    let rest = match authority_end {
        Some(at) if rest[at..].starts_with('@') => {
            let (user, password) = match rest[..at].split_once(':') {
                Some((user, password)) => (user, Some(password)),
                None => (&rest[..at], None),
            };
            pairs.push(("user".into(), decode(user, "user name")?));
            if let Some(password) = password {
                pairs.push(("password".into(), decode(password, "password")?));
            }
            &rest[at + 1..]
        }
        _ => rest,
    };
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (hosts, database) = rest.split_once('/').unwrap_or((rest, ""));
    if hosts.contains('@') {
        return Err(format!("has more than one @ before the database; {ENCODE}"));
    }
    if !hosts.is_empty() {
        let (names, ports) = split_hosts(hosts)?;
        pairs.push(("host".into(), names.join(",")));
        if ports.iter().any(|p| !p.is_empty()) {
            pairs.push(("port".into(), ports.join(",")));
        }
    }
    if !database.is_empty() {
        pairs.push(("dbname".into(), decode(database, "database name")?));
    }
    for parameter in query.split('&').filter(|p| !p.is_empty()) {
        let (key, value) = parameter
            .split_once('=')
            .ok_or("has a parameter without \"=\" after the question mark")?;
        pairs.push((
            decode(key, "key of a parameter")?,
            decode(value, "value of a parameter")?,
        ));
    }
    Ok(pairs)
}

/// `a:1,[::1]:2,c` as names and ports, of which any may be empty.
fn split_hosts(hosts: &str) -> Result<(Vec<String>, Vec<String>), String> {
    let (mut names, mut ports) = (Vec::new(), Vec::new());
    for place in hosts.split(',') {
        let (name, port) = match place.strip_prefix('[') {
            Some(inner) => {
                let (name, after) = inner
                    .split_once(']')
                    .ok_or("has an IPv6 address without its closing bracket")?;
                match after.strip_prefix(':') {
                    Some(port) => (name, port),
                    None if after.is_empty() => (name, ""),
                    None => return Err("has something between an IPv6 address and its port".into()),
                }
            }
            None => place.split_once(':').unwrap_or((place, "")),
        };
        if !port.chars().all(|c| c.is_ascii_digit()) {
            return Err(format!("has a port that is not a number; {ENCODE}"));
        }
        names.push(decode(name, "host name")?);
        ports.push(port.to_owned());
    }
    Ok((names, ports))
}

/// `key = value` with libpq's quoting: values with blanks in single quotes,
/// and a backslash before a quote or a backslash.
fn from_pairs(text: &str) -> Result<Pairs, String> {
    let mut pairs = Pairs::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| c == '=' || c.is_whitespace())
            .unwrap_or(rest.len());
        let key = &rest[..end];
        let Some(after) = rest[end..].trim_start().strip_prefix('=') else {
            return Err(format!(
                "pair {} is no key=value; a value with blanks stands in single quotes; {FORMS}",
                pairs.len() + 1
            ));
        };
        let (value, after) = take_value(after.trim_start())?;
        pairs.push((key.to_owned(), value));
        rest = after.trim_start();
    }
    Ok(pairs)
}

fn take_value(text: &str) -> Result<(String, &str), String> {
    let (quoted, text) = match text.strip_prefix('\'') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '\\' => value.extend(characters.next().map(|(_, c)| c)),
            '\'' if quoted => return Ok((value, &text[at + 1..])),
            c if !quoted && c.is_whitespace() => return Ok((value, &text[at..])),
            c => value.push(c),
        }
    }
    if quoted {
        return Err("has a single quote that is never closed".into());
    }
    Ok((value, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        let pairs = split(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        let pairs: Vec<String> = pairs.iter().map(|(k, v)| format!("{k}={v}")).collect();
        pairs.join(" ")
    }

    #[test]
    fn urls_are_taken_apart() {
        for (url, want) in [
            (
                "postgresql://app:s%40c%2Fr%3Aet@shop-db-rw.default:5432/app",
                "user=app password=s@c/r:et host=shop-db-rw.default port=5432 dbname=app",
            ),
            ("postgres://h", "host=h"),
            (
                "postgres://u@a,b:6000/d?sslmode=verify-full&sslrootcert=%2Fca.crt",
                "user=u host=a,b port=,6000 dbname=d sslmode=verify-full sslrootcert=/ca.crt",
            ),
            (
                "postgres://[::1]:5433,[fe80::1]/d",
                "host=::1,fe80::1 port=5433, dbname=d",
            ),
            (
                "postgres://u:p@%2Fvar%2Frun/d",
                "user=u password=p host=/var/run dbname=d",
            ),
            (
                "postgresql:///d?host=/var/run&user=u",
                "dbname=d host=/var/run user=u",
            ),
            ("postgres://u:a?b@h/d", "user=u password=a?b host=h dbname=d"),
            (
                "postgres://h/d?options=-c%20a%3Db",
                "host=h dbname=d options=-c a=b",
            ),
        ] {
            assert_eq!(shown(url), want, "{url}");
        }
    }

    #[test]
    fn pairs_are_taken_apart() {
        for (text, want) in [
            ("host=h port = 5 user='o p'", "host=h port=5 user=o p"),
            (r"password='a b\'c\\d' host=h", r"password=a b'c\d host=h"),
            (r"password=a\ b host=h", "password=a b host=h"),
            ("password=a://b host=h", "password=a://b host=h"),
            ("password='' host=h", "password= host=h"),
        ] {
            assert_eq!(shown(text), want, "{text}");
        }
    }

    #[test]
    fn no_message_tells_what_stands_where_a_password_may() {
        for text in [
            "postgres://u:hunter2/x@h/d",
            "postgres://u:p@hunter2@h/d",
            "postgres://u:hunter2%ff@h/d",
            "host=h password=my hunter2",
            "host=h password='hunter2",
            "hunter2",
            "hunter2://h",
            "",
        ] {
            let error = split(text).unwrap_err();
            assert!(!error.contains("hunter2"), "{text}: {error}");
        }
    }
}
