//! `pepitactl`: shows and controls a running supervisor over its control socket.

mod events;
mod failure;
mod options;
mod table;
mod top;
mod wait;

pub use options::{Ask, Ctl, Options};

use crate::config;
use crate::exit::ProgramExit;
use clap::CommandFactory;
use failure::Failure;
use options::Vms;
use pepita_supervisor::control::{Call, Client, ClientError, Received, ShutdownMode};
use pepita_supervisor::{Command, VmName};
use pepita_wire::ErrorKind;
use serde_json::Value;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::time::Duration;

/// Executes a command and prints its error, if it has one.
pub async fn run(options: Options) -> ProgramExit {
    match execute(options).await {
        Ok(()) | Err(Failure::OutputClosed) => ProgramExit::Ok,
        Err(Failure::Error { exit, message }) => {
            if !message.is_empty() {
                anstream::eprintln!("pepitactl: {message}");
            }
            exit
        }
    }
}

async fn execute(options: Options) -> Result<(), Failure> {
    let Options { socket, config, command } = options;
    let socket = || find_socket(socket, config);
    match command {
        Ctl::Ask(command) => ask(Client::connect(&socket()?).await?, command).await,
        Ctl::Wait { vms, timeout } => wait::until_ready(&socket()?, &vms, Duration::from_secs(timeout)).await,
        Ctl::Check { file } => match config::check(&file) {
            ProgramExit::Ok => Ok(()),
            exit => Err(Failure::new(exit, "")),
        },
        Ctl::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Options::command(), "pepitactl", &mut script);
            Ok(io::stdout().write_all(&script)?)
        }
        Ctl::Man => Ok(clap_mangen::Man::new(Options::command()).render(&mut io::stdout())?),
    }
}

/// Executes a command that a running supervisor answers.
async fn ask(mut client: Client, command: Ask) -> Result<(), Failure> {
    match command {
        Ask::Status { json: true } => print(&client.call(Call::Status).await?.to_string()),
        Ask::Status { json: false } => print(&table::status(&client.call(Call::Status).await?)),
        Ask::Tree => print(&table::tree(&client.call(Call::Status).await?)),
        Ask::Start(vms) => command_each(&mut client, vms, Command::Start).await,
        Ask::Stop(vms) => command_each(&mut client, vms, Command::Stop).await,
        Ask::Restart(vms) => command_each(&mut client, vms, Command::Restart).await,
        Ask::Reset(vms) => command_each(&mut client, vms, Command::Reset).await,
        Ask::Signal { vm, signal } => call(&mut client, Call::Signal { vm, signal }).await,
        Ask::Pause(vms) => call_each(&mut client, vms, |vm| Call::Pause { vm }).await,
        Ask::Resume(vms) => call_each(&mut client, vms, |vm| Call::Resume { vm }).await,
        Ask::Logs { vm, follow, previous } => Err(logs(&mut client, &vm, follow, previous).await?),
        Ask::Events { follow, json } => events::print_events(client, follow, json).await,
        Ask::Plan { json } => plan(&mut client, Call::Plan, json).await,
        Ask::Reload { restart, json } => plan(&mut client, Call::Reload { restart }, json).await,
        Ask::Shutdown { leave: true, .. } => shutdown(client, ShutdownMode::Leave).await,
        Ask::Shutdown { destroy: true, .. } => shutdown(client, ShutdownMode::Destroy).await,
        Ask::Shutdown { .. } => shutdown(client, ShutdownMode::Stop).await,
        Ask::Top => top::run(client).await,
    }
}

/// Returns the supervisor's control socket: from the options, else from the environment, else the default path.
fn find_socket(socket: Option<PathBuf>, config: Option<PathBuf>) -> Result<PathBuf, Failure> {
    match (socket, config) {
        (Some(socket), _) => Ok(socket),
        (None, Some(file)) => config::socket(&file).map_err(|e| Failure::new(ProgramExit::Usage, e)),
        (None, None) => {
            let named = std::env::var_os("PEPITACTL_SOCKET").filter(|named| !named.is_empty());
            Ok(named.map_or_else(|| config::DEFAULT_SOCKET.into(), PathBuf::from))
        }
    }
}

fn print(text: &str) -> Result<(), Failure> {
    Ok(writeln!(anstream::stdout(), "{text}")?)
}

async fn call(client: &mut Client, call: Call) -> Result<(), Failure> {
    client.call(call).await?;
    Ok(())
}

async fn command_each(client: &mut Client, vms: Vms, command: Command) -> Result<(), Failure> {
    call_each(client, vms, |vm| Call::Command { vm, command }).await
}

async fn call_each(client: &mut Client, vms: Vms, make: impl Fn(String) -> Call) -> Result<(), Failure> {
    for vm in vms.vms {
        call(client, make(vm)).await?;
    }
    Ok(())
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
        return print(&answer["plan"].to_string());
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
                    _ => print(text),
                };
            }
            received => events::print_received(&received, false)?,
        }
    }
}

/// Executes the launcher in place of this program, because the launcher has the logs. Returns only after a failure,
/// with its reason.
async fn logs(client: &mut Client, vm: &str, follow: bool, previous: Option<u8>) -> Result<Failure, Failure> {
    let status = client.call(Call::Status).await?;
    let has_vm =
        |group: &Value| group["vms"].as_array().is_some_and(|vms| vms.iter().any(|v| v["name"] == vm));
    if !status["groups"].as_array().is_some_and(|groups| groups.iter().any(has_vm)) {
        return Err(Failure::no_such_vm(vm));
    }
    let id = VmName::new(vm).map_err(|_| Failure::no_such_vm(vm))?.id().to_string();
    let version = client.call(Call::Version).await?;
    let Some(pepita) = version["pepita"].as_str() else {
        let message = "the supervisor does not find its launcher any more";
        return Err(Failure::new(ProgramExit::Unavailable, message));
    };
    let mut command = std::process::Command::new(pepita);
    if let Some(run_dir) = version["run_dir"].as_str() {
        command.args(["--run-dir", run_dir]);
    }
    command.args(["logs", "--name", &id]);
    if follow {
        command.args(["--follow", "--restarts"]);
    }
    command.args(previous.map(|number| format!("--previous={number}")));
    let error = command.exec();
    Ok(Failure::new(ProgramExit::Unavailable, format!("{pepita}: {error}")))
}
