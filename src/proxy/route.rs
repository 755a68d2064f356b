//! Which upstream serves a request: by host, then by the longest path prefix of whole segments.

use super::Route;

/// The routes, in the order in which they are tried.
#[derive(Clone, Debug, Default)]
pub struct Router {
    routes: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    /// In lower case, without port.
    host: Option<String>,
    path: String,
    upstream: usize,
}

impl Router {
    /// In the order of the file.
    #[must_use]
    pub fn new(routes: impl IntoIterator<Item = Route>) -> Self {
        let mut routes: Vec<Entry> = routes
            .into_iter()
            .map(|route| Entry {
                host: route.host.as_deref().map(|host| host_name(host).to_ascii_lowercase()),
                path: route.path,
                upstream: route.upstream,
            })
            .collect();
        // The sort is stable: ties stay in the order of the file.
        routes.sort_by_key(|route| (route.host.is_none(), std::cmp::Reverse(route.path.len())));
        Self { routes }
    }

    /// The index of the upstream for this Host (with or without port) and normalised path. Routes with a host go before those
    /// without, however long their paths; `*` (of `OPTIONS *`) is no path and matches nothing.
    #[must_use]
    pub fn find(&self, host: &str, path: &str) -> Option<usize> {
        let host = host_name(host);
        let serves =
            |route: &&Entry| route.host.as_ref().is_none_or(|name| name.eq_ignore_ascii_case(host)) && is_below(&route.path, path);
        self.routes.iter().find(serves).map(|route| route.upstream)
    }
}

/// The host without its port and without the dot of an absolute name.
fn host_name(host: &str) -> &str {
    let name = match host.rfind(']') {
        Some(end) => host.get(..=end).unwrap_or(host),
        None => host.split(':').next().unwrap_or(host),
    };
    name.strip_suffix('.').unwrap_or(name)
}

/// Whether the path is the prefix itself or lies below it. A prefix with a slash at its end does not match itself without it.
fn is_below(prefix: &str, path: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || prefix.ends_with('/') || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(routes: &[(Option<&str>, &str)], host: &str, path: &str, expected: Option<usize>) {
        let routes = routes.iter().enumerate();
        let routes =
            routes.map(|(upstream, (host, path))| Route { host: host.map(str::to_owned), path: (*path).to_owned(), upstream });
        let router = Router::new(routes);
        assert_eq!(router.find(host, path), expected, "{host}{path}");
    }

    #[test]
    fn the_longest_prefix_of_whole_segments_wins() {
        let routes = [(None, "/"), (None, "/app"), (None, "/app/admin"), (None, "/files/")];
        check(&routes, "h", "/", Some(0));
        check(&routes, "h", "/apple", Some(0));
        check(&routes, "h", "/app", Some(1));
        check(&routes, "h", "/app/", Some(1));
        check(&routes, "h", "/app/x", Some(1));
        check(&routes, "h", "/app/admin", Some(2));
        check(&routes, "h", "/app/administrator", Some(1));
        check(&routes, "h", "/app%2Fadmin", Some(0));
        check(&routes, "h", "/files", Some(0));
        check(&routes, "h", "/files/x", Some(3));
        check(&routes, "h", "*", None);
        check(&[(None, "/app")], "h", "/other", None);
        check(&[], "h", "/", None);
    }

    #[test]
    fn a_host_goes_before_a_longer_path() {
        let routes = [(None, "/app/x"), (Some("A.example:8000"), "/"), (Some("b.example"), "/app")];
        check(&routes, "a.EXAMPLE", "/app/x", Some(1));
        check(&routes, "a.example.:80", "/app/x", Some(1));
        check(&routes, "b.example", "/app/x", Some(2));
        check(&routes, "b.example", "/other", None);
        check(&routes, "c.example", "/app/x", Some(0));
        check(&routes, "", "/app/x", Some(0));
        check(&[(Some("[::1]"), "/")], "[::1]:8000", "/", Some(0));
    }

    #[test]
    fn ties_go_to_the_first_in_the_file() {
        check(&[(None, "/a"), (None, "/b"), (None, "/a")], "h", "/a", Some(0));
    }
}
