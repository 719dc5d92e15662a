//! rest_for_one: when a VM fails, that VM and the later VMs of the group are restarted. Kills the daemon of the second
//! VM and shows that. Runs `config/rest_for_one.toml`, or the file that is named as its argument.

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    pepita_supervisors::demo::run("rest_for_one", "filter").await
}
