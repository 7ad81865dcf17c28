//! The `nodens` command.

fn main() {}
