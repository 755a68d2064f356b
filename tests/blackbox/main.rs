//! The built binary, from outside: real sockets, stock clients, real servers behind it.

mod admission;
#[path = "../support/answer.rs"]
mod answer;
mod browser;
mod http;
mod log;
mod operate;
mod proxy;
mod scale;
#[path = "../support/skip.rs"]
mod skip;
mod support;
mod transports;
