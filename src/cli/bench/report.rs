//! What a run prints: a table for people, then the same as one JSON line for programs.

use std::fmt::Write;

use hdrhistogram::Histogram;
use serde_json::Value;

use super::server::Spent;

/// Figures in the order they are printed.
pub struct Report {
    rows: Vec<(&'static str, Value)>,
}

impl Report {
    pub fn new(load: &'static str) -> Self {
        Self { rows: vec![("load", load.into())] }
    }

    pub fn add(&mut self, name: &'static str, value: impl Into<Value>) {
        self.rows.push((name, value.into()));
    }

    /// A figure with two decimals.
    pub fn real(&mut self, name: &'static str, value: f64) {
        self.add(name, (value * 100.0).round() / 100.0);
    }

    /// Percentiles, in microseconds.
    pub fn latency(&mut self, latency: &Histogram<u64>) {
        for (name, quantile) in [("p50_us", 0.50), ("p99_us", 0.99), ("p999_us", 0.999)] {
            self.real(name, latency.value_at_quantile(quantile) as f64 / 1e3);
        }
        self.real("max_us", latency.max() as f64 / 1e3);
    }

    /// The server's CPU for each of `count` messages, in microseconds.
    pub fn spent(&mut self, spent: Spent, count: u64) {
        let each = |nanos: u64| nanos as f64 / 1e3 / count.max(1) as f64;
        for (name, nanos) in [("server_cpu_us_each", spent.process), ("core_busy_us_each", spent.core)] {
            if let Some(nanos) = nanos {
                self.add(name, (each(nanos) * 1e4).round() / 1e4);
            }
        }
    }

    pub fn table(&self) -> String {
        let width = self.rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let mut table = String::new();
        for (name, value) in &self.rows {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            _ = writeln!(table, "{name:<width$}  {value:>14}");
        }
        table
    }

    pub fn json(&self) -> String {
        let members: Vec<_> = self.rows.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        format!("{{{}}}", members.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_json_and_holds_what_the_table_holds() {
        let mut report = Report::new("echo");
        report.real("rate", 2.0 / 3.0);
        report.spent(Spent { process: Some(5_000_000), core: None }, 1000);
        report.add("lost", 7);
        report.add("reasons", vec!["7 deliveries did not come"]);
        let line = report.json();
        assert!(line.starts_with("{\"load\":\"echo\",\"rate\":0.67,\"server_cpu_us_each\":5.0,\"lost\":7,"), "{line}");
        let value: Value = serde_json::from_str(&line).expect("JSON");
        for (name, _) in value.as_object().expect("an object") {
            assert!(report.table().contains(name), "{name}");
        }
    }
}
