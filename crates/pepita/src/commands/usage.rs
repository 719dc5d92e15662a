//! The messages about a command line that cannot be parsed.

use super::output::{print_error, written};
use crate::error::call_error;
use clap::error::ErrorKind;
use pepita_wire::record::CallErrorKind;
use std::io::Write;
use std::process::ExitCode;

/// Prints clap's message and returns the exit code. A request for help is no error.
pub(super) fn usage_error(error: &clap::Error) -> ExitCode {
    // No options were parsed, so `--json` is searched for among the arguments.
    let json = || std::env::args_os().any(|arg| arg == "--json");
    if !error.use_stderr() {
        return match written(error.print().and_then(|()| std::io::stdout().flush())) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                print_error(&e, json());
                ExitCode::from(e.kind.exit_code())
            }
        };
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        // Standard error may take nothing, and there is no other place to say so.
        let _ = error.print();
    } else {
        print_error(&call_error(CallErrorKind::Usage, one_line(&error.to_string())), json());
    }
    ExitCode::from(CallErrorKind::Usage.exit_code())
}

/// Joins the paragraphs of clap's text to one line, without the usage, which `--help` prints.
fn one_line(text: &str) -> String {
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let words = |paragraph: &str| paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
    let all = text.split("\n\n").map(words);
    let said = all.take_while(|p| !p.starts_with("Usage:") && !p.starts_with("For more information"));
    said.chain(["see --help".to_owned()]).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::Parser;

    #[test]
    fn a_mistake_is_told_in_one_line_with_what_was_meant() {
        for (args, said) in [
            (
                &["signal"][..],
                "the following required arguments were not provided: <--name <NAME>|NAME>; see --help",
            ),
            (
                &["run", "--nam", "a"],
                "unexpected argument '--nam' found; tip: a similar argument exists: '--name'",
            ),
            (
                &["run", "--cpus", "0"],
                "invalid value '0' for '--cpus <CPUS>': 0 is not in 1..=288; see --help",
            ),
        ] {
            let error = Cli::try_parse_from(std::iter::once(&"pepita").chain(args)).expect_err("mistyped");
            let line = one_line(&error.to_string());
            assert!(line.starts_with(said) && !line.contains('\n'), "{line}");
        }
    }
}
