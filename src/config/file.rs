//! The TOML file: its tables and keys, each with its place for errors.

use std::borrow::Cow;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Config;
use super::value::Value;
use crate::proxy::Route;

/// Tables that a later version will have.
pub const RESERVED: [&str; 8] = ["tls", "auth", "limits", "broker", "cluster", "grip", "pusher", "admin"];

/// What is wrong, and at which byte of the file.
#[derive(Debug)]
pub struct FileError {
    pub at: usize,
    pub problem: String,
}

type Table<'a> = DeTable<'a>;

/// Applies a whole file.
///
/// # Errors
/// The first thing that is wrong.
pub fn apply(config: &mut Config, text: &str) -> Result<(), FileError> {
    let root = DeTable::parse(text)
        .map_err(|error| FileError { at: error.span().map_or(0, |span| span.start), problem: error.message().to_owned() })?;
    let root = root.get_ref();
    // The others inherit from `default`, and routes name upstreams: so these two come first, whatever the file's order.
    if let Some((_, namespaces)) = find(root, "namespaces") {
        apply_namespaces(config, namespaces)?;
    }
    if let Some((_, upstreams)) = find(root, "upstreams") {
        for (name, upstream) in entries(upstreams)? {
            for (key, value) in entries(upstream)? {
                config.set_upstream(name.get_ref(), key.get_ref(), &plain(value)?).map_err(|problem| at(value, problem))?;
            }
        }
    }
    for (name, section) in root {
        match &**name.get_ref() {
            "namespaces" | "upstreams" => {}
            "routes" => apply_routes(config, section)?,
            name_text if RESERVED.contains(&name_text) => {
                return Err(at_key(name, format!("[{name_text}] is not in this version")));
            }
            name_text => {
                if !matches!(section.get_ref(), DeValue::Table(_)) {
                    return Err(at_key(name, format!("`{name_text}` stands outside of any [section]")));
                }
                for (key, value) in entries(section)? {
                    let place = config.set(name_text, key.get_ref(), &plain(value)?);
                    place.map_err(|problem| {
                        if problem.starts_with("unknown section") { at_key(name, problem) } else { at_either(key, value, problem) }
                    })?;
                }
            }
        }
    }
    Ok(())
}

fn apply_namespaces(config: &mut Config, namespaces: &Spanned<DeValue<'_>>) -> Result<(), FileError> {
    let mut tables: Vec<_> = entries(namespaces)?.collect();
    tables.sort_by_key(|(name, _)| (name.get_ref() != "default", name.span().start));
    for (name, namespace) in tables {
        for (key, value) in entries(namespace)? {
            config
                .set_namespace(name.get_ref(), key.get_ref(), &plain(value)?)
                .map_err(|problem| at_either(key, value, problem))?;
        }
    }
    Ok(())
}

fn apply_routes(config: &mut Config, routes: &Spanned<DeValue<'_>>) -> Result<(), FileError> {
    let DeValue::Array(routes) = routes.get_ref() else { return Err(at(routes, "routes are written as [[routes]]".to_owned())) };
    for route in routes {
        let (mut host, mut path, mut upstream) = (None, "/".to_owned(), None);
        for (key, value) in entries(route)? {
            let text = plain(value)?.text().map_err(|expected| at(value, format!("{} must be {expected}", key.get_ref())))?;
            match &**key.get_ref() {
                "host" => host = (!text.is_empty()).then_some(text),
                "path" if text.starts_with('/') => path = text,
                "path" => return Err(at(value, "path must begin with a slash".to_owned())),
                "to" => {
                    let known = config.shard.proxy.upstreams.iter().position(|upstream| upstream.name == text);
                    upstream = Some(known.ok_or_else(|| at(value, format!("there is no [upstreams.{text}]")))?);
                }
                other => return Err(at_key(key, super::unknown("key", other, ["host", "path", "to"].into_iter()))),
            }
        }
        let upstream = upstream.ok_or_else(|| at(route, "a route needs `to`, the name of an upstream".to_owned()))?;
        config.shard.proxy.routes.push(Route { host, path, upstream });
    }
    Ok(())
}

fn find<'a, 'b>(table: &'b Table<'a>, name: &str) -> Option<(&'b Spanned<Cow<'a, str>>, &'b Spanned<DeValue<'a>>)> {
    table.iter().find(|(key, _)| key.get_ref() == name)
}

fn entries<'a, 'b>(
    value: &'b Spanned<DeValue<'a>>,
) -> Result<impl Iterator<Item = (&'b Spanned<Cow<'a, str>>, &'b Spanned<DeValue<'a>>)>, FileError> {
    match value.get_ref() {
        DeValue::Table(table) => Ok(table.iter()),
        _ => Err(at(value, "a table is expected here".to_owned())),
    }
}

/// A value without its TOML clothes.
fn plain(value: &Spanned<DeValue<'_>>) -> Result<Value, FileError> {
    match value.get_ref() {
        DeValue::String(text) => Ok(Value::Text(text.to_string())),
        DeValue::Boolean(value) => Ok(Value::Bool(*value)),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map(Value::Integer)
            .map_err(|_| at(value, "the number is too large".to_owned())),
        DeValue::Array(items) => {
            let texts: Result<Vec<String>, FileError> = items
                .iter()
                .map(|item| match item.get_ref() {
                    DeValue::String(text) => Ok(text.to_string()),
                    _ => Err(at(item, "a text in quotes is expected here".to_owned())),
                })
                .collect();
            texts.map(Value::List)
        }
        DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Table(_) => {
            Err(at(value, "no key takes a value of this kind".to_owned()))
        }
    }
}

fn at(value: &Spanned<DeValue<'_>>, problem: String) -> FileError {
    FileError { at: value.span().start, problem }
}

fn at_key(key: &Spanned<Cow<'_, str>>, problem: String) -> FileError {
    FileError { at: key.span().start, problem }
}

/// An unknown key is at the key, a bad value at the value.
fn at_either(key: &Spanned<Cow<'_, str>>, value: &Spanned<DeValue<'_>>, problem: String) -> FileError {
    if problem.starts_with("unknown") { at_key(key, problem) } else { at(value, problem) }
}

/// Line and column of a byte, both from 1; columns count characters.
#[must_use]
pub fn place(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}
