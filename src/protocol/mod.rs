//! Client protocols: messages ↔ hub commands. Pure.

pub mod codes;
pub mod plain;
