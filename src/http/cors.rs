//! Which pages may use the browser doors (WHATWG Fetch, the CORS protocol).

use std::net::{Ipv4Addr, Ipv6Addr};

use super::problem::Problem;
use super::response::Response;

const ALLOW_HEADERS: &str = "Authorization, Content-Type, X-API-Key, Last-Event-ID, If-None-Match, Idempotency-Key";
const EXPOSE_HEADERS: &str = "ETag, Retry-After";
const MAX_AGE_S: &str = "300";

/// What a response says to the page that asked.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub enum Cors {
    /// Nothing: no page of another origin asked.
    #[default]
    None,
    /// Any page may read it; no credentials.
    Any,
    /// This origin may.
    Echo(Box<str>),
}

impl Cors {
    /// The fields to add.
    #[must_use]
    pub fn fields(&self) -> Vec<(&'static str, String)> {
        let origin = match self {
            Self::None => return Vec::new(),
            Self::Any => "*",
            Self::Echo(origin) => origin,
        };
        let mut fields =
            vec![("Access-Control-Allow-Origin", origin.to_owned()), ("Access-Control-Expose-Headers", EXPOSE_HEADERS.to_owned())];
        if matches!(self, Self::Echo(_)) {
            fields.push(("Vary", "Origin".to_owned()));
        }
        fields
    }
}

/// The configured allow-list.
#[derive(Clone, Debug, Default)]
pub struct Origins {
    globs: Vec<String>,
    any: bool,
}

impl Origins {
    /// Globs over whole origins, compared in lower case; `*` alone allows every origin.
    #[must_use]
    pub fn new(globs: &[String]) -> Self {
        Self { globs: globs.iter().map(|glob| glob.to_ascii_lowercase()).collect(), any: globs.iter().any(|glob| glob == "*") }
    }

    /// What to answer a request with this `Origin`, sent to this `Host`.
    ///
    /// # Errors
    /// 403 for an origin that is not listed.
    pub fn check(&self, origin: Option<&str>, host: &str) -> Result<Cors, Problem> {
        let Some(origin) = origin else { return Ok(Cors::None) };
        let lower = origin.to_ascii_lowercase();
        let same = is_same(&lower, &host.to_ascii_lowercase());
        // Neither `*` nor a glob is meant to say "sandboxed frames and files"; `null` is listed by name.
        let listed = if lower == "null" {
            self.globs.contains(&lower)
        } else {
            self.globs.iter().any(|glob| matches(glob.as_bytes(), lower.as_bytes()))
        };
        if same {
            Ok(if self.any { Cors::Any } else { Cors::None })
        } else if self.any && lower != "null" {
            Ok(Cors::Any)
        } else if listed {
            Ok(Cors::Echo(lower.into()))
        } else {
            Err(Problem::forbidden(format!("origin {} is not allowed: add it to [http] allowed_origins", printable(origin))))
        }
    }
}

/// Whether an origin is the host that was asked. Which scheme that speaks is not known here (a proxy in front may end TLS), so a
/// port that is left out is the default one of the origin's scheme (RFC 6454 section 4).
fn is_same(origin: &str, host: &str) -> bool {
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    let default = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return authority == host,
    };
    let bare = |authority: &str| authority.strip_suffix(default).unwrap_or(authority).to_owned();
    bare(authority) == bare(host)
}

/// Whether a `Host` names the server by an address or as this machine: what no DNS record of somebody else can do.
#[must_use]
pub fn is_address_or_localhost(host: &str) -> bool {
    let without_port = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    let name = without_port.map_or(host, |(name, _)| name).to_ascii_lowercase();
    let v6 = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    match v6 {
        Some(v6) => v6.parse::<Ipv6Addr>().is_ok(),
        None => name == "localhost" || name.ends_with(".localhost") || name.parse::<Ipv4Addr>().is_ok(),
    }
}

/// The answer to a preflight request.
#[must_use]
pub fn preflight(allow: &'static str) -> Response {
    Response::empty(204)
        .with("Allow", allow)
        .with("Access-Control-Allow-Methods", allow)
        .with("Access-Control-Allow-Headers", ALLOW_HEADERS)
        .with("Access-Control-Max-Age", MAX_AGE_S)
}

fn printable(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_graphic()).take(100).collect()
}

/// Whether a glob whose `*` stands for any run of characters matches all of a text.
fn matches(glob: &[u8], text: &[u8]) -> bool {
    let (mut at, mut place) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while place < text.len() {
        match glob.get(at) {
            Some(b'*') => {
                star = Some((at, place));
                at += 1;
            }
            Some(byte) if *byte == text[place] => {
                at += 1;
                place += 1;
            }
            _ => match star {
                // Let the last star take one more character.
                Some((star_at, from)) => {
                    star = Some((star_at, from + 1));
                    (at, place) = (star_at + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    glob[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_served_by_the_list() {
        let listed = Origins::new(&["https://*.example.com".to_owned(), "null".to_owned()]);
        let any = Origins::new(&["*".to_owned()]);
        let echo = |origin: &str| Some(Cors::Echo(origin.into()));
        for (origins, origin, expected) in [
            (&listed, None, Some(Cors::None)),
            (&listed, Some("https://a.example.com"), echo("https://a.example.com")),
            (&listed, Some("HTTPS://A.Example.com"), echo("https://a.example.com")),
            (&listed, Some("https://example.com"), None),
            (&listed, Some("https://a.example.com.evil.org"), None),
            (&listed, Some("http://host:8000"), Some(Cors::None)),
            (&listed, Some("null"), echo("null")),
            (&any, Some("https://x.org"), Some(Cors::Any)),
            (&any, Some("null"), None),
            (&Origins::new(&[]), Some("https://x.org"), None),
        ] {
            assert_eq!(origins.check(origin, "host:8000").ok(), expected, "{origin:?}");
        }
    }

    #[test]
    fn the_same_host_and_port_is_always_let_in_default_ports_said_or_not() {
        let nobody = Origins::new(&[]);
        for (origin, host, same) in [
            ("http://shop.example.org", "shop.example.org", true),
            ("http://shop.example.org", "shop.example.org:80", true),
            ("http://shop.example.org:80", "Shop.Example.org", true),
            ("https://shop.example.org", "shop.example.org:443", true),
            ("https://shop.example.org", "shop.example.org", true),
            ("http://[::1]", "[::1]:80", true),
            ("http://shop.example.org", "shop.example.org:443", false),
            ("https://shop.example.org", "shop.example.org:80", false),
            ("http://shop.example.org", "shop.example.org:8080", false),
            ("http://shop.example.org", "example.org", false),
            ("http://shop.example.org", "", false),
            ("null", "null", false),
        ] {
            assert_eq!(nobody.check(Some(origin), host).is_ok(), same, "{origin} at {host}");
        }
    }

    #[test]
    fn an_address_or_localhost_is_nobody_elses_name() {
        for host in
            ["localhost", "LOCALHOST:8000", "a.localhost", "127.0.0.1:1", "127.9.9.9", "[::1]", "[::1]:8000", "192.168.1.5:80"]
        {
            assert!(is_address_or_localhost(host), "{host}");
        }
        for host in
            ["", "evil.org", "evil.org:8000", "localhost.evil.org", "127.0.0.1.evil.org", "notlocalhost", "[evil.org]", "::1"]
        {
            assert!(!is_address_or_localhost(host), "{host}");
        }
    }

    #[test]
    fn an_echoed_origin_varies() {
        assert!(Cors::Echo("https://x.org".into()).fields().contains(&("Vary", "Origin".to_owned())));
        assert!(Cors::None.fields().is_empty());
    }
}
