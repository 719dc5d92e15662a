//! one_for_one: a VM that fails is restarted alone. Kills the daemon of one VM and shows that.
//! Runs `config/one_for_one.toml`, or the file that is named as its argument.

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    pepita_supervisors::demo::run("one_for_one", "worker-2").await
}
