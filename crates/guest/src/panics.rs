//! Tells the monitor on the console that the agent has panicked, and then ends the agent: an agent that goes on without
//! one of its threads would serve its guest badly, and nobody would know.

use crate::console::Console;
use pepita_wire::console::{Note, encode};
use std::panic::PanicHookInfo;
use std::sync::{Mutex, PoisonError};

/// The token in force, by which the monitor recognises a note. It stands beside the state of the agent, whose lock the
/// thread that panics may hold.
static TOKEN: Mutex<String> = Mutex::new(String::new());

/// Sets the token in force.
pub(crate) fn set_token(token: &str) {
    token.clone_into(&mut TOKEN.lock().unwrap_or_else(PoisonError::into_inner));
}

/// From now on, tells a panic of any thread on the console, and then calls `end`.
pub(crate) fn report(token: &str, console: Console, end: fn() -> !) {
    set_token(token);
    std::panic::set_hook(Box::new(move |panic| {
        console.write_in_need(note(panic).as_bytes());
        end()
    }));
}

fn note(panic: &PanicHookInfo<'_>) -> String {
    let token = TOKEN.lock().unwrap_or_else(PoisonError::into_inner).clone();
    encode(&token, &Note::Failed(format!("the agent panicked: {panic}")))
}
