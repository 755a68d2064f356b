//! Guards the layers, which one crate's compiler does not: the pure half never touches the world, imports point one way, and
//! `unsafe` lives in `ring` alone.
//!
//! Comments and literals are blanked first, and what is under `#[cfg(test)]` is left out: tests may read clocks and files. A file
//! named `tests.rs` or `*_tests.rs` is a test as a whole.

use std::fmt;
use std::path::{Path, PathBuf};

/// Modules that know no sockets, clocks, threads, environment, files or ambient randomness.
const PURE: &[&str] =
    &["shard", "admin", "protocol", "transport", "proxy", "broker", "hub", "auth", "http", "ws", "limits", "metrics", "base"];

/// What each module may import of this crate. Modules of one rank do not import each other.
const ARROWS: &[(&str, &[&str])] = &[
    ("main", &["cli"]),
    ("cli", &["config", "net", "ring", "shard", "hub", "http", "ws", "proxy", "transport", "metrics", "base"]),
    ("config", &["net", "ring", "shard", "hub", "http", "ws", "proxy", "transport", "metrics", "base"]),
    ("net", &["ring", "shard", "hub", "http", "ws", "metrics", "base"]),
    ("ring", &["metrics", "base"]),
    ("shard", &["admin", "protocol", "transport", "proxy", "broker", "hub", "auth", "http", "ws", "limits", "metrics", "base"]),
    ("admin", MIDDLE),
    ("protocol", MIDDLE),
    ("transport", MIDDLE),
    ("proxy", MIDDLE),
    ("broker", MIDDLE),
    ("hub", LOW),
    ("auth", LOW),
    ("http", LOW),
    ("ws", LOW),
    ("limits", &["base"]),
    ("metrics", &["base"]),
    ("base", &[]),
];
const MIDDLE: &[&str] = &["hub", "auth", "http", "ws", "limits", "metrics", "base"];
const LOW: &[&str] = &["limits", "metrics", "base"];

/// Words of the world, and what to do instead.
const WORLD: &[&str] = &[
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "std::thread",
    "thread::spawn",
    "Instant::now",
    "SystemTime",
    "std::fs",
    "std::env",
    "std::process",
    "std::io::stdin",
    "std::io::stdout",
    "println!",
    "eprintln!",
    "getrandom",
    "thread_rng",
    "RandomState::new",
    "rustix::",
    "libc::",
    "socket2::",
    "tokio::",
    "io_uring",
];

/// A rule broken at a place.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Breach {
    file: String,
    line: usize,
    what: What,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum What {
    World { word: &'static str },
    Arrow { from: String, to: String },
    UnknownModule { module: String },
    Unsafe,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.file, self.line)?;
        match &self.what {
            What::World { word } => write!(f, "`{word}` belongs in net or ring: pass the fact in as an Input"),
            What::Arrow { from, to } => write!(f, "{from} may not import {to}: what it needs belongs further right"),
            What::UnknownModule { module } => write!(f, "module {module} has no place in the layers: give it one in this test"),
            What::Unsafe => write!(f, "unsafe code lives in src/ring only"),
        }
    }
}

/// Every breach in one file. `file` is its path below `src`, with `/`.
fn check(file: &str, text: &str) -> Vec<Breach> {
    let module = module_of(file);
    let code = without_tests(&blank(text));
    let mut breaches = Vec::new();
    if !is_test_file(file) {
        for (index, line) in code.lines().enumerate() {
            let mut breach = |what| breaches.push(Breach { file: file.to_owned(), line: index + 1, what });
            if PURE.contains(&module) {
                WORLD.iter().filter(|word| contains_word(line, word)).for_each(|word| breach(What::World { word }));
            }
            if module != "ring" && file != "lib.rs" && contains_word(line, "unsafe") {
                breach(What::Unsafe);
            }
        }
        breaches.extend(imports(&code).into_iter().filter_map(|(line, to)| arrow(file, module, line, &to)));
    }
    breaches
}

/// The breach that an import is, if it is one.
fn arrow(file: &str, from: &str, line: usize, to: &str) -> Option<Breach> {
    if to == from || from == "lib" {
        return None;
    }
    let breach = |what| Some(Breach { file: file.to_owned(), line, what });
    match ARROWS.iter().find(|(module, _)| *module == from) {
        None => breach(What::UnknownModule { module: from.to_owned() }),
        Some((_, allowed)) if allowed.contains(&to) => None,
        Some(_) if !ARROWS.iter().any(|(module, _)| *module == to) => breach(What::UnknownModule { module: to.to_owned() }),
        Some(_) => breach(What::Arrow { from: from.to_owned(), to: to.to_owned() }),
    }
}

/// `hub/home.rs` and `hub.rs` are in module `hub`.
fn module_of(file: &str) -> &str {
    file.split('/').next().unwrap_or(file).trim_end_matches(".rs")
}

fn is_test_file(file: &str) -> bool {
    let name = file.rsplit('/').next().unwrap_or(file);
    name == "tests.rs" || name.ends_with("_tests.rs")
}

/// Modules of this crate that are named, with their lines: `crate::a::…`, `crate::{a, b::c}`, and `ringmain::a` in `main`.
fn imports(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for root in ["crate::", "ringmain::"] {
        for (at, _) in code.match_indices(root).filter(|(at, _)| starts_word(code, *at)) {
            let line = code[..at].matches('\n').count() + 1;
            let rest = &code[at + root.len()..];
            match rest.strip_prefix('{') {
                Some(group) => found.extend(first_names(group).into_iter().map(|name| (line, name))),
                None => found.push((line, leading_name(rest))),
            }
        }
    }
    found.retain(|(_, name)| !name.is_empty());
    found
}

/// The first name of each part of a braced list, up to the brace that closes it.
fn first_names(group: &str) -> Vec<String> {
    let mut names = vec![leading_name(group.trim_start())];
    let mut depth = 0;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(leading_name(group[at + 1..].trim_start())),
            _ => {}
        }
    }
    names
}

fn leading_name(text: &str) -> String {
    text.chars().take_while(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '_').collect()
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn starts_word(code: &str, at: usize) -> bool {
    !code[..at].chars().next_back().is_some_and(is_word)
}

/// Whether a word occurs that is not part of a longer one.
fn contains_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let ends = !word.ends_with(is_word) || !line[at + word.len()..].chars().next().is_some_and(is_word);
        ends && starts_word(line, at)
    })
}

/// The code with comments and literals replaced by blanks; line breaks stay.
fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = match (chars[at], chars.get(at + 1)) {
            ('/', Some('/')) => find(&chars, at, |rest| rest[0] == '\n', 0),
            ('/', Some('*')) => end_of_block_comment(&chars, at),
            ('"', _) => end_of_text(&chars, at + 1),
            ('r', Some('"' | '#')) if at == 0 || !is_word(chars[at - 1]) || chars[at - 1] == 'b' => end_of_raw_text(&chars, at + 1),
            ('\'', Some('\\')) => find(&chars, at + 3, |rest| rest[0] == '\'', 1),
            ('\'', Some(_)) if chars.get(at + 2) == Some(&'\'') => at + 3,
            _ => at,
        };
        if end == at {
            code.push(chars[at]);
            at += 1;
            continue;
        }
        let end = end.min(chars.len());
        code.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
        at = end;
    }
    code
}

/// The first place from `at` on where the rest is as wanted, and `skip` characters further; the end if there is none.
fn find(chars: &[char], at: usize, is_wanted: impl Fn(&[char]) -> bool, skip: usize) -> usize {
    (at..chars.len()).find(|at| is_wanted(&chars[*at..])).map_or(chars.len(), |at| at + skip)
}

fn end_of_block_comment(chars: &[char], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0);
    while at + 1 < chars.len() {
        match (chars[at], chars[at + 1]) {
            ('/', '*') => (depth, at) = (depth + 1, at + 2),
            ('*', '/') => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    chars.len()
}

fn end_of_text(chars: &[char], mut at: usize) -> usize {
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// Behind `r`: hashes, a quote, anything, a quote and as many hashes. A raw identifier is not a text and ends where it begins.
fn end_of_raw_text(chars: &[char], start: usize) -> usize {
    let hashes = chars[start..].iter().take_while(|c| **c == '#').count();
    if chars.get(start + hashes) != Some(&'"') {
        return start - 1;
    }
    let closes = |rest: &[char]| rest[0] == '"' && rest[1..].iter().take_while(|c| **c == '#').count() >= hashes;
    find(chars, start + hashes + 1, closes, hashes + 1)
}

/// Blanks what stands under `#[cfg(test)]`: the item up to its closing brace or semicolon.
fn without_tests(code: &str) -> String {
    const MARKS: [&str; 2] = ["#[cfg(test)]", "#[cfg(all(test"];
    let mut kept = code.to_owned();
    while let Some(start) = MARKS.iter().filter_map(|mark| kept.find(mark)).min() {
        let end = end_of_item(&kept, start);
        let blanks: String = kept[start..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        kept.replace_range(start..end, &blanks);
    }
    kept
}

fn end_of_item(code: &str, start: usize) -> usize {
    let mut depth = 0;
    let mut brackets = 0;
    for (at, c) in code[start..].char_indices() {
        match c {
            '[' | '(' => brackets += 1,
            ']' | ')' => brackets -= 1,
            '{' => depth += 1,
            '}' if depth <= 1 => return start + at + 1,
            '}' => depth -= 1,
            ';' if depth == 0 && brackets == 0 => return start + at + 1,
            _ => {}
        }
    }
    code.len()
}

fn source_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Paths below `src`, with `/`, and their texts.
fn sources() -> Vec<(String, String)> {
    let (root, mut folders, mut sources) = (source_root(), vec![source_root()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            if entry.is_dir() {
                folders.push(entry);
            } else if entry.extension().is_some_and(|extension| extension == "rs") {
                let name = entry.strip_prefix(&root).expect("below src").to_string_lossy().replace('\\', "/");
                sources.push((name, std::fs::read_to_string(&entry).expect("a text")));
            }
        }
    }
    sources
}

#[test]
fn the_layers_hold() {
    let breaches: Vec<String> =
        sources().iter().flat_map(|(file, text)| check(file, text)).map(|breach| breach.to_string()).collect();
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));
}

#[test]
fn every_module_has_its_place() {
    let files = sources();
    let mut modules: Vec<&str> = files.iter().map(|(file, _)| module_of(file)).filter(|module| *module != "lib").collect();
    modules.sort_unstable();
    modules.dedup();
    assert!(modules.len() > 10, "the sources were found: {modules:?}");
    for module in modules {
        assert!(ARROWS.iter().any(|(known, _)| *known == module), "{module} has no place in ARROWS");
    }
}

#[test]
fn the_crate_denies_unsafe_code() {
    let lib = std::fs::read_to_string(source_root().join("lib.rs")).expect("lib.rs");
    assert!(lib.contains("#![deny(unsafe_code)]"));
    assert_eq!(lib.matches("#[allow(unsafe_code)]").count(), 1, "only ring may");
}

#[track_caller]
fn finds(file: &str, text: &str, expected: &[(usize, What)]) {
    let found: Vec<(usize, What)> = check(file, text).into_iter().map(|breach| (breach.line, breach.what)).collect();
    assert_eq!(found, expected, "{text}");
}

fn arrow_of(from: &str, to: &str) -> What {
    What::Arrow { from: from.to_owned(), to: to.to_owned() }
}

#[test]
fn the_world_is_found_in_pure_code_only() {
    let text = "fn now() -> u64 {\n    std::time::Instant::now()\n}\n";
    finds("hub/home.rs", text, &[(2, What::World { word: "Instant::now" })]);
    finds("net/worker.rs", text, &[]);
    finds("base/time.rs", "let x = std::env::var(\"X\");", &[(1, What::World { word: "std::env" })]);
    finds("http/head.rs", "fn f() { let my_println = 1; }", &[]);
    finds("http/head.rs", "fn f() { println!(\"x\"); }", &[(1, What::World { word: "println!" })]);
}

#[test]
fn wrong_arrows_are_found_however_they_are_written() {
    finds("hub/home.rs", "use crate::shard::Shard;", &[(1, arrow_of("hub", "shard"))]);
    finds(
        "hub/home.rs",
        "use crate::{base::Now, http, ws::{self, frame}};",
        &[(1, arrow_of("hub", "http")), (1, arrow_of("hub", "ws"))],
    );
    finds("proxy/mod.rs", "\n\nfn f() -> crate::transport::Options { todo() }", &[(3, arrow_of("proxy", "transport"))]);
    finds("ring/queue.rs", "use crate::hub::Message;", &[(1, arrow_of("ring", "hub"))]);
    finds("main.rs", "fn main() { ringmain::net::serve() }", &[(1, arrow_of("main", "net"))]);
    finds("base/id.rs", "use crate::base::Slots;", &[]);
    finds("shard/mod.rs", "use crate::http::cors::Origins;\nuse crate::hub::Home;", &[]);
    finds("hub/home.rs", "use crate::util::x;", &[(1, What::UnknownModule { module: "util".to_owned() })]);
    finds("util.rs", "use crate::base::x;", &[(1, What::UnknownModule { module: "util".to_owned() })]);
}

#[test]
fn unsafe_is_found_outside_of_the_ring() {
    finds("net/cpu.rs", "fn f() { unsafe { g() } }", &[(1, What::Unsafe)]);
    finds("ring/sys.rs", "fn f() { unsafe { g() } }", &[]);
    finds("net/cpu.rs", "fn unsafe_name() {} // unsafe", &[]);
}

#[test]
fn comments_literals_and_tests_are_no_code() {
    finds("hub/a.rs", "//! reads std::fs\n/* crate::net /* std::env */ std::env */ fn f() {}", &[]);
    finds(
        "hub/a.rs",
        "fn f() { let a = \"std::fs \\\" std::env\"; let b = r#\"crate::net \" std::fs\"#; let c = '\"'; let d = '\\''; }",
        &[],
    );
    finds("hub/a.rs", "fn f<'a>(x: &'a str) { std::fs::read(x) }", &[(1, What::World { word: "std::fs" })]);
    finds(
        "hub/a.rs",
        "#[cfg(test)]\nmod tests {\n    fn f() { std::fs::read(\"{\"); }\n}\nfn g() { std::env::args() }",
        &[(5, What::World { word: "std::env" })],
    );
    finds("hub/a.rs", "#[cfg(test)]\nmod tests;\nuse crate::net::x;", &[(3, arrow_of("hub", "net"))]);
    finds("hub/a.rs", "#[cfg(test)]\nuse std::fs;\nuse crate::net::x;", &[(3, arrow_of("hub", "net"))]);
    finds("hub/home_tests.rs", "use std::fs;", &[]);
    finds("hub/a.rs", "let x = r\"a\\\"; std::fs::read()", &[(1, What::World { word: "std::fs" })]);
    finds("hub/a.rs", "let r#type = 1; std::fs::read()", &[(1, What::World { word: "std::fs" })]);
}
