//! one_for_all: when a VM fails, all VMs of its group are restarted, in order. Kills the daemon of one VM and shows that.
//! Runs `config/one_for_all.toml`, or the file that is named as its argument.

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    pepita_supervisors::demo::run("one_for_all", "member-2").await
}
