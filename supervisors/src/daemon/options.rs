//! The command line of `pepitad`.

use crate::printer::OutputFormat;
use clap::Parser;
use std::path::{Path, PathBuf};

/// Keeps daemons alive in microVMs: runs the supervision tree of a configuration file, in the foreground.
#[derive(Debug, Parser)]
#[command(name = "pepitad", version)]
#[command(
    after_help = "Signals: TERM and INT stop all VMs in order (or leave them running, with on_exit = \"leave\"), and a \
    second one destroys them at once; HUP reads the configuration again.\n\
    Exit codes: 0 stopped or left, 64 usage, 69 launcher missing or unfit, 70 the tree gave up, 73 another process \
    is in the way, 74 the output of --check or --schema cannot be written, 77 the control socket, its folder or the state directory cannot be made, 78 mistakes in the \
    configuration."
)]
pub struct Options {
    /// The configuration; config/reference.toml has every key
    #[arg(long, short, value_name = "FILE", required_unless_present = "schema")]
    config: Option<PathBuf>,
    /// Print the mistakes in the configuration and advice about it, and start nothing
    #[arg(long)]
    pub check: bool,
    /// Print the JSON schema of configurations, for editors, and start nothing
    #[arg(long, exclusive = true)]
    pub schema: bool,
    /// End the VMs of a previous run that are no longer in the configuration, also when these are most of them
    #[arg(long)]
    pub allow_removal: bool,
    /// Print events as JSON objects, one per line
    #[arg(long, conflicts_with = "quiet")]
    pub json: bool,
    /// Print no events
    #[arg(long, short)]
    pub quiet: bool,
    /// The filter of the log on standard error, for example `debug` or `pepita_supervisor::executor=debug` [default:
    /// $RUST_LOG, warn]
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
}

impl Options {
    /// Returns the file of the configuration.
    ///
    /// # Panics
    /// When `--schema` was given, the only option that needs no configuration.
    pub(super) fn config(&self) -> &Path {
        self.config.as_deref().expect("--config is required without --schema")
    }

    /// Returns the format of events.
    pub(super) fn format(&self) -> OutputFormat {
        match (self.quiet, self.json) {
            (true, _) => OutputFormat::Quiet,
            (false, true) => OutputFormat::Json,
            (false, false) => OutputFormat::Lines,
        }
    }
}
