//! Foreign programs named `pepita`, and a host without any.

use crate::host::Host;
use pepita_supervisor::executor::ExecutorError;
use pepita_supervisor::tree::{StartError, Tree};
use std::os::unix::fs::PermissionsExt;

#[tokio::test]
async fn a_program_that_exits_0_for_everything_is_not_taken_for_a_launcher() {
    let host = Host::new();
    let fake = host.path("pepita");
    std::fs::write(&fake, "#!/bin/sh\nexit 0\n").expect("written");
    std::fs::set_permissions(&fake, PermissionsExt::from_mode(0o755)).expect("made executable");
    let mut spec = host.spec("");
    spec.pepita = fake;
    let error = Tree::start(spec).await.expect_err("refused");
    assert!(matches!(&error, StartError::Launcher(ExecutorError::NotPepita { .. })), "{error:?}");
    let words = error.to_string();
    assert!(
        words.contains("this is not the launcher") && words.contains("printed no version record"),
        "{words}"
    );
}

#[tokio::test]
async fn without_a_launcher_it_is_said_where_it_was_looked_for() {
    let host = Host::new();
    let mut spec = host.spec("");
    spec.pepita = host.path("nowhere/pepita");
    let words = Tree::start(spec).await.expect_err("refused").to_string();
    assert!(words.contains("launcher is missing") && words.contains("nowhere/pepita"), "{words}");
}
