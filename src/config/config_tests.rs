use super::*;
use std::io::Write;
use std::time::Duration;

fn load(text: &str, environment: &[(&str, &str)], flags: Flags) -> Result<Config, ConfigError> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let flags = Flags { config: Some(file.path().to_owned()), ..flags };
    Config::load(&flags, environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
}

#[track_caller]
fn refuse(text: &str, line: usize, column: usize, problem: &str) {
    match load(text, &[], Flags::default()).unwrap_err() {
        ConfigError::File { line: at_line, column: at_column, problem: told, .. } => {
            assert_eq!((at_line, at_column, told.as_str()), (line, column, problem), "{text}");
        }
        other => panic!("{other} for {text}"),
    }
}

#[test]
fn the_printed_default_is_the_default_and_has_every_key() {
    let text = Config::default_text();
    let printed = load(&text, &[], Flags::default()).unwrap();
    let mut default = Config { path: printed.path.clone(), ..Config::default() };
    default.finish().unwrap();
    assert_eq!(format!("{printed:?}"), format!("{default:?}"));
    for name in KEYS
        .iter()
        .map(|key| key.name)
        .chain(NAMESPACE_KEYS.iter().map(|key| key.name))
        .chain(UPSTREAM_KEYS.iter().map(|key| key.name))
    {
        assert!(text.contains(&format!("{name} = ")), "{name}");
    }
}

#[test]
fn flags_go_before_environment_before_file_before_default() {
    let file = "[server]\nworkers = 3\n[websocket]\nfragments_max = 7\n[http]\nheaders_max = 9\n";
    let environment = [("RINGMAIN_SERVER__WORKERS", "4"), ("RINGMAIN_WEBSOCKET__FRAGMENTS_MAX", "65536")];
    let config = load(file, &environment, Flags { workers: Some(5), ..Flags::default() }).unwrap();
    assert_eq!((config.workers, config.shard.ws.fragments_max, config.shard.http.headers_max), (5, 65_536, 9));
    assert_eq!(config.shard.http.head_bytes_max, 16 << 10);
}

#[test]
fn namespaces_inherit_from_default_wherever_it_stands() {
    let config = load("[namespaces.ticker]\nkind = \"state\"\ncoalesce = \"10ms\"\n[namespaces.default]\nhistory_size = 7\nallow_subscribe = [\"anyone\"]\n", &[], Flags::default()).unwrap();
    let ticker = config.shard.hub.namespace("ticker:x").unwrap();
    assert_eq!((ticker.name.as_str(), ticker.history_size, ticker.coalesce), ("ticker", 7, Duration::from_millis(10)));
    assert_eq!(ticker.allow_subscribe, Access::Anyone);
    assert_eq!(config.shard.hub.namespace("other:x").unwrap().name, "default");
}

#[test]
fn the_longest_prefix_wins() {
    let config =
        load("[namespaces.a]\nmatch = [\"a:*\"]\n[namespaces.b]\nmatch = [\"a:b:*\", \"c*\"]\n", &[], Flags::default()).unwrap();
    let name = |channel: &str| config.shard.hub.namespace(channel).map(|namespace| namespace.name.clone());
    assert_eq!([name("a:x"), name("a:b:x"), name("cx"), name("x")].map(Option::unwrap), ["a", "b", "b", "default"]);
}

#[test]
fn without_a_file_everybody_on_this_machine_is_let_in() {
    let config = Config::load(&Flags::default(), std::iter::empty()).unwrap();
    assert!(config.shard.server.development && config.shard.hub.namespaces[0].allow_subscribe == Access::Anyone);
    let everywhere = Flags { listen: vec!["0.0.0.0:0".parse().unwrap()], ..Flags::default() };
    assert!(matches!(Config::load(&everywhere, std::iter::empty()), Err(ConfigError::Together(_))));
    let meant = Flags { mode: Some(Mode::Development), ..everywhere };
    assert!(Config::load(&meant, std::iter::empty()).is_ok());
}

#[test]
fn a_configured_server_lets_nobody_in_by_itself() {
    let config = load("", &[], Flags::default()).unwrap();
    assert_eq!((config.mode, config.shard.hub.namespaces[0].allow_subscribe), (Mode::Production, Access::Nobody));
    assert!(config.shard.http.allowed_origins.is_empty() && config.shard.server.api_key.is_empty());
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    refuse("[server]\nlisten = 8000\n", 2, 10, "listen must be a list of texts");
    refuse("[server]\nlisen = []\n", 2, 1, "unknown key `lisen`: did you mean `listen`?");
    refuse("[serve]\nlisten = []\n", 1, 2, "unknown section `serve`: did you mean `server`?");
    refuse("[tls]\ncert = \"x\"\n", 1, 2, "[tls] is not in this version");
    refuse("workers = 1\n", 1, 1, "`workers` stands outside of any [section]");
    refuse("[server]\nworkers = 1000\n", 2, 11, "workers must be a whole number from 0 to 128");
    refuse("[namespaces.x]\nkind = \"steam\"\n", 2, 8, "kind must be one of \"stream\", \"state\"");
    refuse("[[routes]]\npath = \"/\"\nto = \"app\"\n", 3, 6, "there is no [upstreams.app]");
    refuse("[upstreams.app]\nservers = [\"127.0.0.1:1\"]\n[[routes]]\npath = \"x\"\n", 4, 8, "path must begin with a slash");
    refuse("[api]\nkey = 'a\n", 2, 9, "invalid literal string, expected `'`");
}

#[test]
fn the_environment_is_held_to_the_same_rules() {
    let problem = |name: &str, value: &str| match load("", &[(name, value)], Flags::default()).unwrap_err() {
        ConfigError::Environment { problem, .. } => problem,
        other => panic!("{other}"),
    };
    assert_eq!(problem("RINGMAIN_API__KEYS", "x"), "unknown key `keys`: did you mean `key`?");
    assert_eq!(problem("RINGMAIN_ECHO__ENABLED", "yes"), "enabled must be true or false");
    assert!(problem("RINGMAIN_PORT", "1").starts_with("names a key as"));
    let config = load(
        "",
        &[
            ("RINGMAIN_NAMESPACES__TICKER__KIND", "state"),
            ("RINGMAIN_HTTP__ALLOWED_ORIGINS", "https://a, https://b"),
            ("RINGMAIN_API__KEY", "123"),
        ],
        Flags::default(),
    )
    .unwrap();
    assert!(config.shard.hub.is_state("ticker:x"));
    assert_eq!((config.shard.http.allowed_origins.len(), config.shard.server.api_key.as_str()), (2, "123"));
}

#[test]
fn a_route_leads_to_its_upstream() {
    let config =
        load("[[routes]]\npath = \"/\"\nto = \"app\"\n[upstreams.app]\nservers = [\"127.0.0.1:3000\"]\n", &[], Flags::default())
            .unwrap();
    assert_eq!((config.shard.proxy.routes[0].upstream, config.shard.proxy.upstreams[0].name.as_str()), (0, "app"));
}
