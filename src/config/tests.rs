//! The configuration from outside: texts, variables and flags in; a [`Config`] or its errors out.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::keys::{self, Key};
use super::*;
use crate::hub::{ChannelKind, SlowConsumer, UnknownNamespace};
use crate::{hub, proxy};

fn sources(file: bool, environment: &[(&str, &str)]) -> Sources {
    Sources {
        file: file.then(|| PathBuf::from("ringmain.toml")),
        environment: environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        flags: Vec::new(),
    }
}

fn load(text: &str) -> Result<Config, ConfigErrors> {
    Config::from_text(Some(text), &sources(true, &[]))
}

fn load_environment(environment: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    Config::from_text(None, &sources(false, environment))
}

#[track_caller]
fn good(text: &str) -> Config {
    load(text).unwrap_or_else(|errors| panic!("{text}\n{errors}"))
}

/// The whole message.
#[track_caller]
fn bad(text: &str, message: &str) {
    let errors = load(text).expect_err(text);
    assert_eq!(errors.to_string(), message, "{text}");
}

/// The message for a value that stands alone in the third line of a file.
#[track_caller]
fn bad_value(table: &str, assignment: &str, column: usize, message: &str) {
    let key = assignment.split(" =").next().unwrap_or_default();
    bad(&format!("# café\n[{table}]\n{assignment}"), &format!("ringmain.toml:3:{column}: {table}.{key}: {message}"));
}

const SAMPLE: &str = r#"
[server]
mode = "production"
listen = ["127.0.0.1:8000"]
internal_listen = ""
workers = 0
door_prefix = ""
drain_timeout = "30s"
[api]
key = ""
idempotency_window = "5m"
[http]
allowed_origins = []
head_bytes_max = "16KiB"
head_timeout = "10s"
keep_alive_timeout = "75s"
[websocket]
message_bytes_max = "64KiB"
fragments_max = 1024
ping_interval = "25s"
pong_timeout = "8s"
deflate = false
[stream]
keep_alive_interval = "15s"
retry = ["1s", "4s"]
[poll]
wait_max = "55s"
[channels]
per_connection_max = 128
publication_bytes_max = "256KiB"
position_ttl = "720h"
position_records_max = 1000000
unknown_namespace = "default"
[namespaces.default]
history_size = 100
history_ttl = "5m"
allow_subscribe = ["anyone"]
slow_consumer = "disconnect"
queue_bytes_max = "64KiB"
[namespaces.ticker]
kind = "state"
coalesce = "10ms"
[upstreams.app]
servers = ["127.0.0.1:3000"]
[[routes]]
path = "/"
to = "app"
"#;

#[test]
fn a_whole_file_is_read() {
    let config = good(SAMPLE);
    let mut expected = Config::default();
    let default = &mut expected.shard.hub.namespaces[0];
    default.allow_subscribe = Access::Anyone;
    let ticker = hub::Namespace {
        name: "ticker".to_owned(),
        prefixes: vec!["ticker:".to_owned()],
        kind: ChannelKind::State,
        coalesce: Duration::from_millis(10),
        ..default.clone()
    };
    expected.shard.hub.namespaces.push(ticker);
    expected.shard.proxy.upstreams = vec![proxy::Upstream::new("app", vec!["127.0.0.1:3000".parse().expect("an address")])];
    expected.shard.proxy.routes = vec![proxy::Route { host: None, path: "/".to_owned(), upstream: 0 }];
    expected.config_path = Some(PathBuf::from("ringmain.toml"));
    expected.warnings = vec![Warning::NoKey];
    assert_eq!(format!("{config:#?}"), format!("{expected:#?}"));
}

#[test]
fn an_empty_file_is_the_default() {
    let config = good("");
    let expected = Config {
        config_path: Some(PathBuf::from("ringmain.toml")),
        warnings: vec![Warning::NoKey, Warning::NobodySubscribes],
        ..Config::default()
    };
    assert_eq!(format!("{config:#?}"), format!("{expected:#?}"));
}

#[test]
fn what_is_printed_as_the_default_is_the_default() {
    assert_eq!(format!("{:#?}", good(&print_default())), format!("{:#?}", good("")));
}

/// The printed default with its examples switched on.
fn with_examples() -> String {
    let line = |line: &str| match line.strip_prefix('#') {
        Some(example) if !example.is_empty() && !example.starts_with(' ') => example.to_owned(),
        _ => line.to_owned(),
    };
    print_default().lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_printed_examples_can_be_used() {
    let config = good(&with_examples());
    assert_eq!(config.shard.hub.namespaces[1].kind, ChannelKind::State);
    assert_eq!(config.shard.proxy.upstreams[0].servers.len(), 1);
    assert_eq!(config.shard.proxy.routes[0].path, "/");
}

#[test]
fn every_key_is_printed_with_its_doc() {
    let text = print_default();
    let printed = |doc: &str, name: &str, mark: &str| text.contains(&format!("# {doc}\n{mark}{name} = "));
    for table in &keys::TABLES {
        assert!(text.contains(&format!("\n[{}]\n", table.name)), "{}", table.name);
        for key in table.keys {
            assert!(printed(key.doc, key.name, ""), "{}.{}", table.name, key.name);
        }
    }
    for key in &keys::NAMESPACE {
        assert!(printed(key.doc, key.name, if key.name == "match" { "#" } else { "" }), "namespaces: {}", key.name);
    }
    for (name, doc) in docs(&keys::UPSTREAM).chain(docs(&keys::ROUTE)) {
        assert!(printed(doc, name, "#"), "{name}");
    }
}

fn docs<T>(keys: &'static [Key<T>]) -> impl Iterator<Item = (&'static str, &'static str)> {
    keys.iter().map(|key| (key.name, key.doc))
}

/// A value other than the default that the key takes.
fn another(dotted: &str, shown: &str) -> String {
    let text = match dotted {
        "server.mode" => "development",
        "server.io" => "epoll",
        "server.listen" => "127.0.0.1:8001,[::]:8001",
        "server.internal_listen" => "127.0.0.1:9000",
        "server.door_prefix" => "/_rt",
        "api.key" => "0123456789abcdef0123",
        "http.allowed_origins" => "https://a.example,https://*.b.example",
        "stream.retry" => "2s,3s",
        "channels.unknown_namespace" => "refuse",
        "io.congestion_control" => "reno",
        "log.level" => "debug",
        "log.format" => "json",
        "namespaces.chat.match" => "c:*,d:*",
        "namespaces.chat.kind" => "state",
        "namespaces.chat.allow_subscribe" | "namespaces.chat.allow_publish" => "key",
        "namespaces.chat.slow_consumer" => "conflate",
        "upstreams.app.servers" => "127.0.0.1:3001",
        "routes.0.host" => "example.com",
        "routes.0.path" => "/app",
        "routes.0.to" => "other",
        "poll.wait_max" => "54s",
        _ => return another_of_its_kind(shown),
    };
    text.to_owned()
}

fn another_of_its_kind(shown: &str) -> String {
    let bare = shown.trim_matches('"');
    match bare {
        "true" => "false".to_owned(),
        "false" => "true".to_owned(),
        _ if bare.parse::<u32>().is_ok() => format!("{}", bare.parse::<u32>().unwrap_or_default() + 1),
        _ if bare.ends_with('B') => "2KiB".to_owned(),
        _ => "9s".to_owned(),
    }
}

/// The values in a configuration as it prints itself, by the path of field names to each; elements of a list share theirs.
fn values(config: &Config) -> BTreeMap<String, Vec<String>> {
    let (mut path, mut values) = (Vec::new(), BTreeMap::<_, Vec<_>>::new());
    for line in format!("{config:#?}").lines() {
        let line = line.trim().trim_end_matches(',');
        let (name, value) = line.split_once(": ").filter(|(name, _)| !name.contains('"')).unwrap_or(("", line));
        match value {
            "}" | "]" | ")" => _ = path.pop(),
            _ if value.ends_with(['{', '[', '(']) => path.push(name.to_owned()),
            _ => {
                let names = path.iter().map(String::as_str).chain([name]).filter(|name| !name.is_empty());
                values.entry(names.collect::<Vec<_>>().join(".")).or_default().push(value.to_owned());
            }
        }
    }
    values
}

/// What is in a configuration and has no key: how it was loaded, the names of tables, and the bounds of the spill, which are not a
/// user's to tune (the simulation makes them small).
const WITHOUT_KEY: [&str; 7] = [
    "config_path",
    "key_is_generated",
    "shard.hub.namespaces.name",
    "shard.proxy.upstreams.name",
    "shard.spill.delivery_bytes_max",
    "shard.spill.publish_bytes_max",
    "warnings",
];

/// Sets each key by environment: the configuration must change, and what the key prints back must read as the same again. Returns
/// the paths of what has changed.
#[track_caller]
fn reaches<T>(target: &str, keys: &'static [Key<T>], configured: &mut T) -> Vec<String> {
    let base = "[upstreams.app]\nservers = ['127.0.0.1:3000']\n[upstreams.other]\nservers = ['127.0.0.1:3000']\n[namespaces.chat]\n\
                [[routes]]\npath = '/'\nto = 'app'\n";
    let before = values(&good(base));
    let mut reached = Vec::new();
    for key in keys {
        let dotted = format!("{target}.{}", key.name);
        let value = another(&dotted, &(key.field)(configured).show());
        let name = format!("RINGMAIN_{}", dotted.replace('.', "__").to_uppercase());
        let after = Config::from_text(Some(base), &sources(true, &[(&name, &value)]));
        let after = values(&after.unwrap_or_else(|errors| panic!("{name}={value}: {errors}")));
        let changed = before.keys().chain(after.keys()).filter(|path| before.get(*path) != after.get(*path));
        let count = reached.len();
        reached.extend(changed.cloned());
        assert!(reached.len() > count, "{name}={value} changes nothing");
        let raw = field::Raw::Loose(value.clone());
        (key.field)(configured).set(&raw).expect("a value");
        let shown = (key.field)(configured).show();
        let toml = toml::de::DeValue::parse(&shown).unwrap_or_else(|error| panic!("{dotted} = {shown}: {error}"));
        assert!(!toml.get_ref().type_str().is_empty());
    }
    reached
}

#[test]
fn every_key_reaches_an_option_and_every_option_has_a_key() {
    let mut reached: Vec<String> = WITHOUT_KEY.map(str::to_owned).into();
    for table in &keys::TABLES {
        reached.extend(reaches(table.name, table.keys, &mut Config::default()));
    }
    reached.extend(reaches("namespaces.chat", &keys::NAMESPACE, &mut hub::Namespace::default()));
    let upstream = proxy::Upstream::new("app", Vec::new());
    reached.extend(reaches("upstreams.app", &keys::UPSTREAM, &mut keys::UpstreamDraft { upstream, servers: Vec::new() }));
    reached.extend(reaches("routes.0", &keys::ROUTE, &mut keys::RouteDraft::default()));
    let config = values(&good(&with_examples()));
    let without: Vec<_> = config.keys().filter(|path| !reached.contains(path)).collect();
    assert!(without.is_empty(), "these have no key: {without:#?}");
    let gone: Vec<_> = WITHOUT_KEY.iter().filter(|path| !config.contains_key(**path)).collect();
    assert!(gone.is_empty(), "these are no options any more: {gone:#?}");
}

#[test]
fn bad_values_say_where_what_and_what_instead() {
    for (table, assignment, column, message) in [
        ("server", "mode = \"prod\"", 8, "\"prod\" is none of \"production\", \"development\""),
        ("server", "mode = 1", 8, "1 is not a text: write it in quotes, \"…\""),
        ("server", "workers = \"2\"", 11, "\"2\" is not a whole number: write one like 100, without quotes"),
        ("server", "workers = -1", 11, "-1 is not a whole number: write one like 100, without quotes"),
        ("server", "workers = 1.5", 11, "a number with a fraction is not a whole number: write one like 100, without quotes"),
        ("server", "workers = 129", 11, "129 is out of bounds: 0 to 128"),
        (
            "server",
            "listen = [\"localhost:8000\"]",
            10,
            "\"localhost:8000\" is not an address with a port: write \"127.0.0.1:8000\" or \"[::]:8000\"",
        ),
        ("server", "listen = []", 10, "there is nothing to listen on: write [\"127.0.0.1:8000\"]"),
        ("server", "listen = [\"[::1]:80\", \"[::1]:80\"]", 10, "[::1]:80 is listed twice; remove one"),
        ("server", "internal_listen = \"127.0.0.1:8000\"", 19, "is also in server.listen; give it an address of its own"),
        ("server", "door_prefix = \"/_rt/\"", 15, "\"/_rt/\" is not a path prefix: write \"\" or one like \"/_rt\""),
        ("server", "drain_timeout = 30", 17, "30 is not a duration with its unit: write one like \"30s\", \"10ms\" or \"5m\""),
        ("server", "drain_timeout = \"2h\"", 17, "2h is out of bounds: 0s to 1h"),
        ("api", "key = \"two words\"", 7, "a key is 1 to 256 printable ASCII characters without blanks"),
        ("http", "allowed_origins = \"*\"", 19, "\"*\" is not a list of texts: write [\"…\", \"…\"]"),
        ("http", "head_bytes_max = 16384", 18, "16384 is not a size with its unit: write one like \"64KiB\" or \"512B\""),
        ("http", "head_bytes_max = \"64K\"", 18, "\"64K\" is not a size with its unit: write one like \"64KiB\" or \"512B\""),
        ("http", "head_bytes_max = \"2MiB\"", 18, "2MiB is out of bounds: 1KiB to 1MiB"),
        ("http", "headers_max = 1000", 15, "1000 is out of bounds: 1 to 256"),
        ("websocket", "deflate = \"yes\"", 11, "\"yes\" is not true or false: write one of them, without quotes"),
        ("websocket", "fragments_max = 65537", 17, "65537 is out of bounds: 1 to 65536"),
        ("websocket", "fragments_max = 99999999999", 17, "4294967295 is out of bounds: 1 to 65536"),
        ("websocket", "pong_timeout = \"25s\"", 16, "must be shorter than websocket.ping_interval, which is 25s"),
        ("stream", "retry = [\"1s\"]", 9, "a list is not two durations: write them like [\"1s\", \"4s\"]"),
        ("stream", "retry = [\"4s\", \"1s\"]", 9, "the first delay is the shorter one: write [\"1s\", \"4s\"]"),
        ("poll", "wait_max = \"1m\"", 12, "1m is out of bounds: 0s to 55s"),
        ("namespaces.default", "match = [\"a:*\"]", 9, "the default namespace takes what no other matches; remove it"),
        (
            "namespaces.chat",
            "match = [\"chat:\"]",
            9,
            "\"chat:\" is not a pattern: write a prefix and a final `*`, as in \"chat:*\"",
        ),
        (
            "namespaces.chat",
            "allow_subscribe = [\"everyone\"]",
            19,
            "\"everyone\" is nobody known: write [\"anyone\"], [\"key\"] or []",
        ),
        (
            "namespaces.chat",
            "slow_consumer = \"drop\"",
            17,
            "\"drop\" is none of \"disconnect\", \"drop_oldest\", \"latest\", \"conflate\"",
        ),
        ("upstreams.app", "servers = [\"app\"]", 11, "\"app\" is not a server: write \"host:port\", as in \"127.0.0.1:3000\""),
        ("upstreams.app", "servers = []", 11, "an upstream needs a server: write servers = [\"127.0.0.1:3000\"]"),
    ] {
        bad_value(table, assignment, column, message);
    }
}

#[test]
fn names_that_are_none_are_told_the_nearest() {
    bad("[htttp]\nhead_bytes_max = '1KiB'", "ringmain.toml:1:2: htttp: unknown table; did you mean [http]?");
    bad("[quux]", "ringmain.toml:1:2: quux: unknown table; `ringmain config default` lists them all");
    bad("workers = 2", "ringmain.toml:1:1: workers: unknown table; `ringmain config default` lists them all");
    bad("[server]\n\n  worker = 2", "ringmain.toml:3:3: server.worker: unknown key; did you mean `workers`?");
    bad("[server]\nzzz = 2", "ringmain.toml:2:1: server.zzz: unknown key; `ringmain config default` lists them all");
    bad(
        "[namespaces.chat]\nhistroy_size = 1",
        "ringmain.toml:2:1: namespaces.chat.histroy_size: unknown key; did you mean `history_size`?",
    );
    bad("[namespaces]\nchat = 1", "ringmain.toml:2:8: namespaces.chat: must be a table: write [namespaces.NAME]");
    bad("[namespaces.Chat]", "ringmain.toml:1:13: namespaces.Chat: a name is 1 to 64 lower-case letters, digits, `_` or `-`");
    bad("server = 1", "ringmain.toml:1:10: server: must be a table: write [server]");
    bad("[routes]\npath = '/'", "ringmain.toml:1:1: routes: must be a table: write [[routes]]");
}

#[test]
fn tables_of_later_versions_are_refused_by_name() {
    for name in keys::RESERVED {
        bad(&format!("\n[{name}]\nx = 1"), &format!("ringmain.toml:2:2: {name}: not in this version; remove it"));
        let variable = format!("RINGMAIN_{}__X", name.to_uppercase());
        let errors = load_environment(&[(&variable, "1")]).expect_err(name);
        assert_eq!(errors.to_string(), format!("environment {variable}: {name}.x: not in this version; remove it"));
    }
}

#[test]
fn what_is_not_toml_is_said_with_its_place() {
    for (text, place) in [
        ("[server\n", "ringmain.toml:1:8: "),
        ("[server]\nworkers = \n", "ringmain.toml:2:11: "),
        ("a = 'é' x", "ringmain.toml:1:9: "),
    ] {
        let message = load(text).expect_err(text).to_string();
        assert!(message.starts_with(place) && message.contains("this is not TOML"), "{text}: {message}");
    }
}

#[test]
fn routes_lead_somewhere_once() {
    let app = "[upstreams.app]\nservers = ['127.0.0.1:3000']\n";
    for (routes, message) in [
        ("[[routes]]\npath = '/'\nto = 'ap'", "ringmain.toml:5:6: routes.0.to: there is no [upstreams.ap]; did you mean \"app\"?"),
        (
            "[[routes]]\npath = '/'\nto = 'zzz'",
            "ringmain.toml:5:6: routes.0.to: there is no [upstreams.zzz]; add it with its servers",
        ),
        (
            "[[routes]]\npath = '/'",
            "ringmain.toml:3:1: routes.0: a route needs an upstream: write to = \"NAME\" of an [upstreams.NAME]",
        ),
        ("[[routes]]\nto = 'app'", "ringmain.toml:3:1: routes.0: a route needs a path: write path = \"/\""),
        (
            "[[routes]]\npath = 'app'\nto = 'app'",
            "ringmain.toml:4:8: routes.0.path: \"app\" is not a path: write one that begins with `/` and has no `?` or `#`",
        ),
        (
            "[[routes]]\npath = '/'\nto = 'app'\n[[routes]]\npath = '/'\nto = 'app'",
            "ringmain.toml:7:8: routes.1.path: route 0 has the same host and path; remove one",
        ),
    ] {
        bad(&format!("{app}{routes}"), message);
    }
    bad("[upstreams.app]", "ringmain.toml:1:1: upstreams.app: an upstream needs a server: write servers = [\"127.0.0.1:3000\"]");
}

#[test]
fn a_pattern_belongs_to_one_namespace() {
    bad(
        "[namespaces.a]\nmatch = ['x:*']\n[namespaces.b]\nmatch = ['y:*', 'x:*']",
        "ringmain.toml:4:9: namespaces.b.match: \"x:*\" is also matched by namespace a; a pattern belongs to one namespace",
    );
    bad(
        "[namespaces.a]\nmatch = ['b:*']\n[namespaces.b]",
        "ringmain.toml:3:1: namespaces.b: \"b:*\" is also matched by namespace a; a pattern belongs to one namespace",
    );
}

#[test]
fn everything_wrong_is_said_at_once_in_the_order_of_the_file() {
    let errors = load("[websocket]\ndeflate = 1\n[api]\nkye = ''\n[tls]\n").expect_err("three errors").to_string();
    let lines: Vec<_> = errors.lines().collect();
    assert_eq!(lines.len(), 3, "{errors}");
    for (line, start) in lines.iter().zip(["ringmain.toml:2:11: ", "ringmain.toml:4:1: ", "ringmain.toml:5:2: "]) {
        assert!(line.starts_with(start), "{errors}");
    }
}

#[test]
fn others_inherit_from_the_default_namespace_wherever_it_stands() {
    let config =
        good("[namespaces.a]\nhistory_size = 1\n[namespaces.default]\nhistory_size = 7\nqueue_bytes_max = '1MiB'\n[namespaces.b]");
    let hub = &config.shard.hub;
    for (channel, history_size) in [("a:1", 1), ("b:1", 7), ("c:1", 7)] {
        let namespace = hub.namespace(channel).expect("a namespace");
        assert_eq!((namespace.history_size, namespace.queue_bytes_max), (history_size, 1 << 20), "{channel}");
    }
}

#[test]
fn the_longest_pattern_wins() {
    let config =
        good("[namespaces.a]\nmatch = ['x:*', '$*']\n[namespaces.b]\nmatch = 'x:y:*'\n[channels]\nunknown_namespace = 'refuse'");
    let name = |channel: &str| config.shard.hub.namespace(channel).map(|namespace| namespace.name.as_str());
    assert_eq!(name("x:1"), Some("a"));
    assert_eq!(name("x:y:1"), Some("b"));
    assert_eq!(name("$1"), Some("a"));
    assert_eq!(name("plain"), Some("default"));
    assert_eq!(name("q:1"), None);
    assert_eq!(config.shard.hub.unknown_namespace, UnknownNamespace::Refuse);
}

#[test]
fn flags_beat_environment_beats_file_beats_default() {
    let level = |file: Option<&str>, environment: &[(&str, &str)], flag: Option<&str>| {
        let mut sources = sources(file.is_some(), environment);
        let flag = flag.map(|value| Flag { name: "--log-level", table: "log", key: "level", value: value.to_owned() });
        sources.flags.extend(flag);
        Config::from_text(file, &sources).expect("a config").log.level
    };
    let (file, environment) = (Some("[log]\nlevel = 'error'"), [("RINGMAIN_LOG__LEVEL", "warn")]);
    assert_eq!(level(None, &[], None), LogLevel::Info);
    assert_eq!(level(file, &[], None), LogLevel::Error);
    assert_eq!(level(file, &environment, None), LogLevel::Warn);
    assert_eq!(level(file, &environment, Some("trace")), LogLevel::Trace);
}

#[test]
fn bad_flags_and_variables_are_named() {
    let mut sources = sources(false, &[("RINGMAIN_HTTP__HEAD_TIMEOUT", "10")]);
    sources.flags.push(Flag { name: "--workers", table: "server", key: "workers", value: "many".to_owned() });
    let errors = Config::from_text(None, &sources).expect_err("two errors");
    assert_eq!(
        errors.to_string(),
        "environment RINGMAIN_HTTP__HEAD_TIMEOUT: http.head_timeout: \"10\" is not a duration with its unit: \
         write one like \"30s\", \"10ms\" or \"5m\"\n\
         flag --workers: server.workers: \"many\" is not a whole number: write one like 100, without quotes"
    );
}

#[test]
fn variables_name_tables_and_keys() {
    let config = load_environment(&[
        ("RINGMAIN_API__KEY", "secret"),
        ("RINGMAIN_NAMESPACES__TICKER__KIND", "state"),
        ("RINGMAIN_NAMESPACES__TICKER__SLOW_CONSUMER", "latest"),
        ("RINGMAIN_UPSTREAMS__APP__SERVERS", "127.0.0.1:3000,127.0.0.1:3001"),
        ("RINGMAIN_ROUTES__0__PATH", "/"),
        ("RINGMAIN_ROUTES__0__TO", "app"),
        ("RINGMAIN_ROUTES__1__PATH", "/x"),
        ("RINGMAIN_ROUTES__1__TO", "app"),
        ("RINGMAIN_TEST_SKIP", "uring"),
        ("HOME", "/root"),
    ])
    .expect("a config");
    assert_eq!(config.shard.server.api_key, "secret");
    let ticker = config.shard.hub.namespace("ticker:1").expect("a namespace");
    assert_eq!((ticker.kind, ticker.slow_consumer), (ChannelKind::State, SlowConsumer::Latest));
    assert_eq!(config.shard.proxy.routes.len(), 2);
    assert_eq!(config.warnings, [Warning::OneServer { upstream: "app".to_owned(), servers: 2 }]);
}

#[test]
fn a_variable_reaches_a_name_with_a_dash() {
    let environment = [("RINGMAIN_NAMESPACES__LIVE_CHAT__HISTORY_SIZE", "3")];
    let config = Config::from_text(Some("[namespaces.live-chat]"), &sources(true, &environment)).expect("a config");
    assert_eq!(config.shard.hub.namespaces.len(), 2);
    assert_eq!(config.shard.hub.namespaces[1].history_size, 3);
}

#[test]
fn variables_that_are_no_keys_are_refused() {
    for (name, message) in [
        ("RINGMAIN_API_KEY", "environment RINGMAIN_API_KEY: not a key; did you mean RINGMAIN_API__KEY, with two underscores?"),
        ("RINGMAIN_API__KYE", "environment RINGMAIN_API__KYE: api.kye: unknown key; did you mean `key`?"),
        ("RINGMAIN_SERVR__WORKERS", "environment RINGMAIN_SERVR__WORKERS: servr.workers: unknown table; did you mean [server]?"),
        (
            "RINGMAIN_NAMESPACES__KIND",
            "environment RINGMAIN_NAMESPACES__KIND: namespaces.kind: unknown key; did you mean `RINGMAIN_NAMESPACES__NAME__KEY`?",
        ),
        (
            "RINGMAIN_ROUTES__1__PATH",
            "environment RINGMAIN_ROUTES__1__PATH: routes.1: routes are numbered without holes; the next one is 0",
        ),
    ] {
        assert_eq!(load_environment(&[(name, "/")]).expect_err(name).to_string(), message);
    }
}

#[test]
fn without_a_file_everything_is_open_on_loopback() {
    let config = load_environment(&[]).expect("a config");
    assert_eq!(config.mode, Mode::Development);
    assert!(config.shard.server.development && config.shard.server.loopback && !config.shard.server.echo);
    let namespace = &config.shard.hub.namespaces[0];
    assert_eq!((namespace.allow_subscribe, namespace.allow_publish), (Access::Anyone, Access::Anyone));
    assert_eq!(config.shard.http.allowed_origins, ["*"]);
    let another = load_environment(&[]).expect("a config");
    assert!(config.key_is_generated);
    assert_eq!(config.shard.server.api_key.len(), 32);
    assert_ne!(config.shard.server.api_key, another.shard.server.api_key);
    assert_eq!(config.warnings, []);
}

#[test]
fn a_file_or_a_word_closes_everything() {
    for config in [good(""), load_environment(&[("RINGMAIN_SERVER__MODE", "production")]).expect("a config")] {
        assert_eq!(config.mode, Mode::Production);
        let namespace = &config.shard.hub.namespaces[0];
        assert_eq!((namespace.allow_subscribe, namespace.allow_publish), (Access::Nobody, Access::Nobody));
        assert!(config.shard.http.allowed_origins.is_empty() && config.shard.server.api_key.is_empty());
        assert_eq!(config.warnings, [Warning::NoKey, Warning::NobodySubscribes]);
    }
}

#[test]
fn development_mode_is_not_shown_to_others_by_accident() {
    for (name, value) in [("RINGMAIN_SERVER__LISTEN", "0.0.0.0:8000"), ("RINGMAIN_SERVER__INTERNAL_LISTEN", "[::]:9000")] {
        let message = load_environment(&[(name, value)]).expect_err(value).to_string();
        assert!(message.starts_with(&format!("environment {name}: server.")), "{message}");
        assert!(message.contains("--mode development") && message.contains(value), "{message}");
        let said = load_environment(&[(name, value), ("RINGMAIN_SERVER__MODE", "development")]).expect("a config");
        assert_eq!(said.mode, Mode::Development);
        load_environment(&[(name, value), ("RINGMAIN_SERVER__MODE", "production")]).expect("a config");
    }
    assert!(!good("[server]\nlisten = ['0.0.0.0:80', '127.0.0.1:80']").shard.server.loopback);
    assert!(good("[server]\nlisten = ['[::ffff:127.0.0.1]:80', '127.9.9.9:80']").shard.server.loopback);
}

#[test]
fn a_short_key_is_warned_about() {
    assert!(good("[api]\nkey = 'abc'").warnings.contains(&Warning::ShortKey { bytes: 3 }));
}

#[test]
fn names_of_servers_become_addresses() {
    let config = good("[upstreams.app]\nservers = ['localhost:3000']");
    let servers = &config.shard.proxy.upstreams[0].servers;
    assert!(servers.iter().any(|server| server.ip().is_loopback() && server.port() == 3000), "{servers:?}");
    // No label is that long, so no name server is asked.
    let server = format!("{}:80", "a".repeat(64));
    let message = load(&format!("[upstreams.app]\nservers = ['{server}']")).expect_err("no such name").to_string();
    let start = format!("ringmain.toml:2:11: upstreams.app.servers: {server} cannot be resolved: ");
    assert!(message.starts_with(&start) && message.ends_with("check the name, or write an IP address"), "{message}");
}

#[test]
fn a_reload_tells_what_it_applies_and_what_it_cannot() {
    let old = good("[server]\nworkers = 1\n[namespaces.a]\n[namespaces.b]\nhistory_size = 1\n[log]\nlevel = 'warn'");
    let new = good(
        "[server]\nworkers = 2\ndrain_timeout = '1s'\n[namespaces.b]\nhistory_size = 2\n[namespaces.c]\n[log]\nlevel = 'warn'",
    );
    let changes = old.changes(&new);
    assert_eq!(changes.restart, ["server.workers"]);
    assert_eq!(changes.applied, ["server.drain_timeout", "namespaces.b.history_size", "namespaces.c", "namespaces.a"]);
    assert_eq!(old.changes(&old), Changes::default());
    let routed = good("[upstreams.app]\nservers = ['127.0.0.1:1']").changes(&good("[upstreams.app]\nservers = ['127.0.0.1:2']"));
    assert_eq!(routed.applied, ["upstreams.app"]);
    let route = "[[routes]]\npath = '/'\nto = 'a'\n";
    let two = |first: &str, second: &str| {
        let upstream = |name: &str| format!("[upstreams.{name}]\nservers = ['127.0.0.1:1']\n");
        good(&format!("{}{}{route}", upstream(first), upstream(second)))
    };
    assert_eq!(two("a", "b").changes(&two("b", "a")), Changes::default(), "order means nothing");
    assert_eq!(two("a", "b").changes(&two("a", "c")).applied, ["upstreams.b", "upstreams.c"]);
    assert_eq!(two("a", "b").changes(&good("")).applied, ["upstreams.a", "upstreams.b", "routes"]);
}

#[test]
fn a_missing_file_is_named() {
    let path = std::env::temp_dir().join("no-such-directory").join("ringmain.toml");
    let sources = Sources { file: Some(path.clone()), ..Sources::default() };
    let message = Config::load(&sources).expect_err("no file").to_string();
    assert!(message.starts_with(&format!("{}:1:1: cannot be read: ", path.display())), "{message}");
}

proptest! {
    #[test]
    fn no_file_panics(text in "(\\[|\\]|=|\"|'|\\.|,|\n|server|namespaces|routes|listen|match|mode|[ -~é]){0,40}") {
        let _ = load(&text);
    }

    #[test]
    fn no_variable_panics(name in "RINGMAIN_(SERVER|API|NAMESPACES|ROUTES|UPSTREAMS|[A-Z0-9_]{0,6})(_|__)[A-Z0-9_]{0,12}", value in ".{0,20}") {
        let _ = load_environment(&[(name.as_str(), value.as_str())]);
    }
}
