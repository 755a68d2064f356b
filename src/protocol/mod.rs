//! Client protocols: messages ↔ hub commands. Pure.
