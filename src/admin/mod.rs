//! What people look at: the playground page. One embedded file, no build step, nothing fetched from elsewhere.

use std::borrow::Cow;

const PLAYGROUND: &str = include_str!("playground.html");

/// The playground, filled in for this server. The key ends up in the page: serve it in development mode only.
#[must_use]
pub fn playground(door_prefix: &str, api_key: &str) -> String {
    PLAYGROUND.replace("{{DOOR_PREFIX}}", &attribute(door_prefix)).replace("{{API_KEY}}", &attribute(api_key))
}

/// Text as the value of a quoted attribute.
fn attribute(text: &str) -> Cow<'_, str> {
    if !text.contains(['&', '"', '<', '>']) {
        return text.into();
    }
    text.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;").replace('>', "&gt;").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_filled_in_and_nothing_breaks_out_of_its_place() {
        let page = playground("/_rt", "k\"><script>&");
        assert!(page.contains(r#"<meta name="door-prefix" content="/_rt">"#));
        assert!(page.contains(r#"<meta name="api-key" content="k&quot;&gt;&lt;script&gt;&amp;">"#));
        assert!(!page.contains("{{"));
    }

    #[test]
    fn the_page_needs_nothing_from_elsewhere() {
        for outside in ["http://", "https://", "src=", "@import", "url(", "innerHTML"] {
            assert!(!PLAYGROUND.contains(outside), "{outside}");
        }
    }
}
