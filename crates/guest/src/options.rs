//! Parses the agent's command line. Carries nothing out.

use lexopt::prelude::*;
use std::ffi::OsString;
use std::path::PathBuf;

/// The option by which the agent starts a forerunner ([`crate::forerunner`]).
pub(crate) const FORERUNNER: &str = "forerunner";

/// The option by which the agent starts a process that copies files ([`crate::copying`]).
pub(crate) const COPY: &str = "copy";

/// The option by which the agent starts a process for practice ([`crate::practice`]).
pub(crate) const PRACTICE: &str = "practice";

/// The text of `--help`, also printed after a usage error.
pub(crate) const USAGE: &str = "\
daemonctl is the init of a pepita microVM; `pepita image build` puts it into the image.
usage: daemonctl --version
       daemonctl --process --uds SOCKET --token-file FILE [--port N] [--incarnation N] [--cid N]
                 [--notify SOCKET] [--image FILE]
With --process the agent is a plain process of the host, as `pepita run --vmm process` starts it. Its standard input is
then a listening Unix socket, which serves as the console.
In a guest it takes its boot token from the second port of the guest's virtio console (pepita-boot-token-port-1).";

/// The mode in which the agent was called.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Run as the init of a microVM.
    Init,
    /// Run as a plain process of the host.
    Process(ProcessOptions),
    /// Become a program of the guest, as the agent that started this process orders it.
    Forerunner,
    /// Copy files over the standard streams, as the agent that started this process orders it.
    Copy(String),
    /// Do what daemons do at their start, with the notify socket at this path.
    Practice(OsString),
    /// Print the version of the agent.
    Version,
    /// Print the text of `--help`.
    Help,
}

/// The options of `--process`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ProcessOptions {
    /// The Unix socket to listen on, which speaks the hybrid vsock protocol.
    pub(crate) uds: PathBuf,
    /// The file with the boot token.
    pub(crate) token_file: PathBuf,
    /// The vsock port that clients must ask for; `None` for the default.
    pub(crate) port: Option<u32>,
    /// The number of this start of the VM.
    pub(crate) incarnation: u64,
    /// The CID that the VM would have; 0 when there is none.
    pub(crate) cid: u32,
    /// The notify socket for the daemon; `None` for the path of `uds` with `.notify` added.
    pub(crate) notify: Option<PathBuf>,
    /// The file that describes the image; `None` for an image that names no daemon.
    pub(crate) image: Option<PathBuf>,
}

impl Command {
    /// Parses the arguments (without the program's name). `is_pid_1` says whether this process has the pid 1.
    ///
    /// # Errors
    /// When an option is unknown or missing, or its value is missing or wrong.
    pub(crate) fn parse<I>(args: I, is_pid_1: bool) -> Result<Self, lexopt::Error>
    where
        I: IntoIterator,
        I::Item: Into<OsString>,
    {
        let mut parser = lexopt::Parser::from_args(args);
        match parser.next() {
            Ok(Some(Long("process"))) => ProcessOptions::parse(&mut parser).map(Self::Process),
            Ok(Some(Long(FORERUNNER))) if !is_pid_1 => Ok(Self::Forerunner),
            Ok(Some(Long(COPY))) if !is_pid_1 => Ok(Self::Copy(parser.value()?.string()?)),
            Ok(Some(Long(PRACTICE))) if !is_pid_1 => Ok(Self::Practice(parser.value()?)),
            Ok(Some(Long("version"))) => Ok(Self::Version),
            Ok(Some(Long("help") | Short('h'))) => Ok(Self::Help),
            // The kernel passes unknown words of its command line to PID 1, so the arguments are ignored.
            _ if is_pid_1 => Ok(Self::Init),
            Ok(Some(other)) => Err(other.unexpected()),
            Ok(None) => Err("neither --process nor --version is given, and this is not PID 1".into()),
            Err(error) => Err(error),
        }
    }
}

impl ProcessOptions {
    fn parse(parser: &mut lexopt::Parser) -> Result<Self, lexopt::Error> {
        let mut options = Self::default();
        while let Some(arg) = parser.next()? {
            match arg {
                Long("uds") => options.uds = parser.value()?.into(),
                Long("token-file") => options.token_file = parser.value()?.into(),
                Long("port") => options.port = Some(parser.value()?.parse()?),
                Long("incarnation") => options.incarnation = parser.value()?.parse()?,
                Long("cid") => options.cid = parser.value()?.parse()?,
                Long("notify") => options.notify = Some(parser.value()?.into()),
                Long("image") => options.image = Some(parser.value()?.into()),
                other => return Err(other.unexpected()),
            }
        }
        match (options.uds.as_os_str().is_empty(), options.token_file.as_os_str().is_empty()) {
            (true, _) => Err("--uds is missing".into()),
            (_, true) => Err("--token-file is missing".into()),
            (false, false) => Ok(options),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str, is_pid_1: bool) -> Result<Command, String> {
        Command::parse(line.split_whitespace(), is_pid_1).map_err(|e| e.to_string())
    }

    #[test]
    fn pid_1_is_the_init_whatever_words_the_kernel_passes() {
        for line in ["", "splash", "--unknown-to-the-kernel", "-x"] {
            assert_eq!(parse(line, true), Ok(Command::Init), "{line:?}");
            assert!(parse(line, false).is_err(), "{line:?}");
        }
        assert_eq!(parse("--version", true), Ok(Command::Version), "PID 1 of a container");
        assert_eq!(
            (parse("--forerunner", true), parse("--forerunner", false)),
            (Ok(Command::Init), Ok(Command::Forerunner))
        );
    }

    #[test]
    fn the_program_carries_the_mark_that_launchers_look_for() {
        assert!(USAGE.contains(pepita_wire::protocol::TOKEN_PORT_MARK));
    }

    #[test]
    fn a_plain_process_has_options() {
        let expected = ProcessOptions {
            uds: "/r/v.sock".into(),
            token_file: "/r/token".into(),
            incarnation: 7,
            cid: 9,
            ..ProcessOptions::default()
        };
        let line = "--process --uds /r/v.sock --token-file=/r/token --incarnation 7 --cid 9";
        assert_eq!(parse(line, false), Ok(Command::Process(expected)));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, word) in [
            ("--process --uds s", "--token-file"),
            ("--process --token-file f", "--uds"),
            ("--process --uds s --token-file f --port many", "many"),
            ("--process --uds s --token-file f --colour", "--colour"),
            ("--process --uds", "--uds"),
        ] {
            let error = parse(line, false).expect_err(line);
            assert!(error.contains(word), "{line}: {error}");
        }
    }
}
