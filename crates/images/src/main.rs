//! `pepita-image`: container images for microVMs. `pepita image …` runs it.
//!
//! It is a program of its own because a registry's client is large, and the launcher stays with every VM.

use std::process::ExitCode;

fn main() -> ExitCode {
    pepita_images::commands::main()
}
