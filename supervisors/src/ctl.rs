//! `pepitactl`: shows and controls a running supervisor over its control socket.

mod command;
mod cp;
mod detail;
mod disk;
mod events;
mod exec;
mod failure;
mod lanes;
mod launched;
mod logs;
mod options;
mod outlook;
mod processes;
mod session;
mod table;
mod targets;
mod top;
mod view;
mod wait;

pub use options::{Ask, Ctl, Options};

use crate::config;
use crate::exit::ProgramExit;
use crate::format::{shown_json, shown_lines};
use crate::output;
use clap::CommandFactory;
use command::{Wait, call_each, give, set_paused};
use failure::Failure;
use options::{Targets, Waiting};
use pepita_supervisor::Command;
use pepita_supervisor::config::control_socket;
use pepita_supervisor::control::{Call, Client, ClientError, Received, ShutdownMode, StatusPart};
use pepita_wire::ErrorKind;
use serde_json::Value;
use std::path::PathBuf;

/// Executes a command and prints its error, if it has one.
pub async fn run(options: Options) -> ProgramExit {
    match execute(options).await {
        Ok(()) | Err(Failure::OutputClosed) => ProgramExit::Ok,
        Err(Failure::Error { exit, message }) => {
            if !message.is_empty() {
                output::print_error(format_args!("pepitactl: {}", shown_lines(&message)));
            }
            exit
        }
    }
}

async fn execute(options: Options) -> Result<(), Failure> {
    let Options { socket, config, patience, command } = options;
    let socket = || find_socket(socket, config);
    match command {
        Ctl::Ask(command) => ask(Client::connect_with_patience(&socket()?, patience).await?, command).await,
        Ctl::Wait { targets, timeout } => wait::until_ready(&socket()?, &targets, timeout, patience).await,
        Ctl::Check { file } => match config::check("pepitactl", &file) {
            ProgramExit::Ok => Ok(()),
            exit => Err(Failure::new(exit, "")),
        },
        Ctl::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Options::command(), "pepitactl", &mut script);
            Ok(output::try_write(&script)?)
        }
        Ctl::Man => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Options::command()).render(&mut page)?;
            Ok(output::try_write(&page)?)
        }
    }
}

/// Executes a command that a running supervisor answers.
async fn ask(mut client: Client, command: Ask) -> Result<(), Failure> {
    match command {
        Ask::Status { targets, json } => status(&mut client, &targets, json).await,
        Ask::Tree => print(&table::tree(&client.call(Call::StatusOf(brief())).await?)),
        Ask::Start { targets: Targets { targets }, waiting } => {
            give(client, &targets, Command::Start, waiting.into()).await
        }
        Ask::Stop { targets: Targets { targets }, waiting } => {
            give(client, &targets, Command::Stop, waiting.into()).await
        }
        Ask::Restart { targets: Targets { targets }, waiting } => {
            give(client, &targets, Command::Restart, waiting.into()).await
        }
        Ask::Reset(Targets { targets }) => give(client, &targets, Command::Reset, Wait::No).await,
        Ask::Signal { target, signal } => {
            call_each(&mut client, &[target], |vm| Call::Signal { vm, signal }).await.map(drop)
        }
        Ask::Pause(Targets { targets }) => set_paused(client, &targets, true).await,
        Ask::Resume(Targets { targets }) => set_paused(client, &targets, false).await,
        Ask::Logs { targets, follow, timestamps, tail, previous, span } => {
            let wanted = logs::Wanted { follow, stamps: timestamps, tail, previous, span };
            logs::print_logs(client, targets, &wanted).await
        }
        Ask::Cp(asked) => Err(cp::run(client, asked).await),
        Ask::Disk(asked) => Err(disk::run(client, asked).await),
        Ask::Exec(exec) => Err(exec::run(client, exec).await),
        Ask::Events { targets, follow, json, span } => {
            events::print_events(client, &targets, follow, json, &span).await
        }
        Ask::Plan { json } => plan(&mut client, Call::Plan, json).await,
        Ask::Reload { restart, allow_removal: true, json } => {
            plan(&mut client, Call::ReloadAndRemove { restart }, json).await
        }
        Ask::Reload { restart, allow_removal: false, json } => {
            plan(&mut client, Call::Reload { restart }, json).await
        }
        Ask::Shutdown { leave: true, .. } => shutdown(client, ShutdownMode::Leave).await,
        Ask::Shutdown { destroy: true, .. } => shutdown(client, ShutdownMode::Destroy).await,
        Ask::Shutdown { .. } => shutdown(client, ShutdownMode::Stop).await,
        Ask::Top => top::run(client).await,
    }
}

impl From<Waiting> for Wait {
    fn from(waiting: Waiting) -> Self {
        if waiting.no_wait { Self::No } else { Self::Until(waiting.timeout) }
    }
}

/// Returns the whole status without the evidence and the last output of VMs that have ended.
fn brief() -> StatusPart {
    StatusPart { of: Vec::new(), brief: true }
}

/// Prints the status of everything, or of the targets.
async fn status(client: &mut Client, targets: &[String], as_json: bool) -> Result<(), Failure> {
    if targets.is_empty() {
        return match as_json {
            true => print(&shown_json(&client.call(Call::Status).await?)),
            false => print(&table::status(&client.call(Call::StatusOf(brief())).await?)),
        };
    }
    let part = StatusPart { of: targets::names(targets), brief: false };
    let (mut status, found) = session::find_in(client, targets, part).await?;
    if found.by_name {
        launched::add(client, &mut status, &found.vms).await;
    }
    if !as_json {
        return print(&table::status_of(&status, &found.vms, found.by_name));
    }
    // The groups stay, with the VMs that were named.
    for group in status["groups"].as_array_mut().into_iter().flatten() {
        let named = |vm: &Value| found.vms.iter().any(|name| vm["name"] == name.as_str());
        if let Some(vms) = group["vms"].as_array_mut() {
            vms.retain(named);
        }
    }
    if let Some(groups) = status["groups"].as_array_mut() {
        let named = |group: &Value| group["name"].as_str().is_some_and(|name| found.groups.contains(name));
        groups.retain(|group| named(group) || group["vms"].as_array().is_some_and(|vms| !vms.is_empty()));
    }
    print(&shown_json(&status))
}

/// Returns the supervisor's control socket: from the options, else from the environment, else the default path.
fn find_socket(socket: Option<PathBuf>, config: Option<PathBuf>) -> Result<PathBuf, Failure> {
    match (socket, config) {
        (Some(socket), _) => Ok(socket),
        (None, Some(file)) => {
            let wrong = |exit, why| Failure::new(exit, format!("{why}\n`-s SOCKET` works without the file"));
            let named = control_socket(&file).map_err(|e| wrong(ProgramExit::Config, e.to_string()))?;
            let none = || {
                let (file, usual) = (file.display(), config::DEFAULT_SOCKET);
                format!(
                    "{file}: names no control_socket in [supervisor], so its supervisor takes no commands; add \
                     control_socket = {usual:?} and start the supervisor again"
                )
            };
            named.ok_or_else(|| wrong(ProgramExit::Usage, none()))
        }
        (None, None) => {
            let named = std::env::var_os("PEPITACTL_SOCKET").filter(|named| !named.is_empty());
            Ok(named.map_or_else(|| config::DEFAULT_SOCKET.into(), PathBuf::from))
        }
    }
}

fn print(text: &str) -> Result<(), Failure> {
    Ok(output::try_print(text)?)
}

/// Prints the plan that the supervisor answers with.
async fn plan(client: &mut Client, call: Call, json: bool) -> Result<(), Failure> {
    let answer = client.call(call).await.map_err(|error| match error {
        // One message contains all mistakes in the file.
        ClientError::Refused(e) if e.kind == ErrorKind::BadRequest => {
            Failure::new(ProgramExit::Config, e.message)
        }
        other => other.into(),
    })?;
    if json {
        return print(&shown_json(&answer["plan"]));
    }
    if answer["empty"] == true {
        return print("nothing differs");
    }
    print(answer["text"].as_str().unwrap_or_default())
}

/// Ends the supervisor, waits for the end, and prints the events until then.
async fn shutdown(mut client: Client, how: ShutdownMode) -> Result<(), Failure> {
    client.call(Call::Events { after: None }).await?;
    let number = client.send(Call::Shutdown { how }).await?;
    loop {
        match client.receive().await?.ok_or(ClientError::Gone)? {
            Received::Answer { id, outcome } if id == number || id == 0 => {
                let answer = outcome.map_err(ClientError::Refused)?;
                let text = answer["text"].as_str().unwrap_or_default();
                return match answer["end"].as_str() {
                    Some("failed") => Err(Failure::new(ProgramExit::Failed, text)),
                    _ => print(&shown_lines(text)),
                };
            }
            received => events::print_received(&received, false)?,
        }
    }
}
