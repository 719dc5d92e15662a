//! Tests of container images in microVMs: redis, nginx and PostgreSQL of Debian, in images that umoci has made.

mod host;

use host::{Form, Host, PATIENCE, guest_file, kill};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Returns a host with a data directory of its own, and the name of the image of redis.
fn host() -> (Host, tempfile::TempDir, String) {
    let data = tempfile::tempdir().expect("a directory");
    let host = Host::of(Form::Qemu).with("PEPITA_DATA_DIR", data.path());
    let layout = format!("oci:{}:7", guest_file("images/redis").display());
    (host, data, layout)
}

fn kernel() -> String {
    guest_file("vmlinuz").to_string_lossy().into_owned()
}

/// Waits until a VM has printed a line with these words.
fn await_line(host: &Host, vm: &str, words: &str) {
    let mut follow =
        host.command(&["logs", "--follow", vm]).stdout(Stdio::piped()).spawn().expect("pepita runs");
    let lines = BufReader::new(follow.stdout.take().expect("piped")).lines();
    let found = lines.map_while(Result::ok).any(|line| line.contains(words));
    let _ = follow.kill();
    let _ = follow.wait();
    assert!(found, "{vm} has ended without {words:?}");
}

#[test]
fn a_container_image_boots_as_its_user_in_its_directory_with_its_environment() {
    let (host, _data, image) = host();
    let script = "redis-server --daemonize yes --save '' >/dev/null; until redis-cli ping 2>/dev/null; do :; done; \
        id -u; pwd; echo $GREETING $OWN; cat /etc/removed 2>/dev/null || echo whiteout; echo x >/tmp/x && echo writable";
    let kernel = kernel();
    let args =
        ["run", "--rm", "--kernel", &kernel, "-e", "OWN=1", "--entrypoint", "sh", &image, "--", "-c", script];
    let said = host.ok(&args);
    let lines: Vec<&str> =
        said.lines().map(str::trim).filter(|line| !line.contains("Could not connect")).collect();
    assert_eq!(
        lines[lines.len() - 6..],
        ["PONG", "999", "/data", "hello 1", "whiteout", "writable"],
        "{said}"
    );
}

#[test]
fn a_new_disk_gets_the_files_of_its_image_once() {
    let (host, data, image) = host();
    let (kernel, disks) = (kernel(), data.path().join("disks"));
    let host = host.with("PEPITA_DISK_DIR", &disks);
    let run = |script: &str| {
        let volume = ["-v", "programs:/usr/bin:size=64M", "--user", "root", "--entrypoint", "sh"];
        host.ok(&[&["run", "--rm", "--kernel", &kernel][..], &volume, &[&image, "--", "-c", script]].concat())
    };
    let names = |said: String| said.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(names(run("ls /usr/bin; rm /usr/bin/redis-cli")), ["redis-cli", "redis-server"]);
    assert_eq!(names(run("ls /usr/bin")), ["redis-server"]);
}

#[test]
fn vms_share_a_root_that_no_prune_takes_from_them() {
    let (host, _data, image) = host();
    let record = host.json(&["image", "import", &image, "--as", "redis:7", "--json"]);
    let kernel = kernel();
    let run = ["run", "--kernel", &kernel, "--pull", "never"];
    // The driver of a network card is in the initrd of this VM alone. Without the card its daemon would not start.
    let networked = ["--name", "a", "--daemon", "--wait-ready", "--network", "user", "redis:7"];
    host.ok(&[&run[..], &networked].concat());
    let mut foreground =
        host.command(&[&run[..], &["--name", "b", "--rm", "redis:7", "--", "--save", ""]].concat());
    let mut foreground = foreground.stdout(Stdio::piped()).spawn().expect("pepita runs");
    let mut lines = BufReader::new(foreground.stdout.take().expect("piped")).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("Ready to accept connections")), "the VM has ended");
    await_line(&host, "a", "Ready to accept connections");
    for name in ["a", "b"] {
        let config = std::fs::read_to_string(host.vm(name).join("spec.json")).expect("a configuration");
        let config: Value = serde_json::from_str(&config).expect("JSON");
        assert_eq!(config["root"]["shared"]["image"], record["root"]);
        let used = json!({ "reference": record["reference"], "digest": record["digest"], "stop_signal": 2 });
        assert_eq!(config["image"], used);
        assert_eq!(host.json(&["status", name])["image"], used);
    }
    assert_eq!(host.json(&["image", "list", "--json"])[0]["used"], json!(true));
    host.ok(&["image", "prune", "--all"]);
    host.fails(&["image", "remove", "redis:7"], 75);
    host.ok(&["destroy", "a"]);
    host.ok(&["image", "prune", "--all"]);
    assert_eq!(host.json(&["image", "list", "--json"])[0]["used"], json!(true), "the other VM has it");
    // The image's stop signal takes the place of TERM, which this process gets.
    kill(Some(foreground.id()), Signal::TERM);
    let said: Vec<String> = lines.collect();
    assert!(said.iter().any(|line| line.contains("Received SIGINT")), "{said:?}");
    assert_eq!(foreground.wait().expect("it ends").code(), Some(0));
    host.ok(&["image", "prune", "--all"]);
    assert_eq!(host.json(&["image", "list", "--json"]), json!([]));
    let advice = host.fails(&[&run[..], &["redis:7"]].concat(), 66);
    assert!(advice.contains("redis:7"), "{advice}");
}

/// Returns a call of a program of `.tools`, with the libraries that it was unpacked with.
fn tool(package: &str, program: &str, args: &[&str]) -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools").join(package);
    let root = root
        .canonicalize()
        .unwrap_or_else(|e| panic!("{}: {e}: run `make setup-tests` first", root.display()));
    let libraries =
        ["lib", "usr/lib"].map(|dir| root.join(dir).join("x86_64-linux-gnu").display().to_string());
    let mut command = Command::new(root.join("lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"));
    command.args(["--library-path", &libraries.join(":")]).arg(root.join(program)).args(args);
    command
}

/// Asks again and again, because a daemon that loads its files may answer that it is not ready yet. Returns the answer.
fn answer(what: &str, mut ask: impl FnMut() -> Result<String, String>) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(why) => assert!(Instant::now() < deadline, "{what}: {why}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn call(mut command: Command) -> Result<String, String> {
    let output = command.output().expect("the program runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

#[test]
fn redis_nginx_and_postgres_answer_at_their_published_ports_and_a_disk_keeps_their_data() {
    let (host, _data, _) = host();
    let disks = tempfile::tempdir().expect("a directory");
    let host = host.with("PEPITA_DISK_DIR", disks.path());
    let kernel = kernel();
    let port = || {
        let listener = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        listener.expect("a port").port().to_string()
    };
    // Starts an image with one port published, and returns the port and the time of the start.
    let run = |name: &str, image: &str, inside: &str, more: &[&str]| {
        let (port, since) = (port(), Instant::now());
        let (publish, image) = (
            format!("127.0.0.1:{port}:{inside}"),
            format!("oci:{}", guest_file("images").join(image).display()),
        );
        let head = ["run", "--kernel", &kernel, "--name", name, "--daemon", "-p", &publish];
        let (options, command) =
            more.split_at(more.iter().position(|word| *word == "--").unwrap_or(more.len()));
        host.ok(&[&head[..], options, &[&image], command].concat());
        (port, since)
    };

    let keep = ["-v", "redis:/data", "--", "--appendonly", "yes", "--appendfsync", "always"];
    let (port, since) = run("redis", "redis:7", "6379", &keep);
    let redis = |port: &str, words: &[&str]| {
        call(tool("redis", "usr/bin/redis-cli", &[&["-e", "-p", port], words].concat()))
    };
    assert_eq!(answer("redis", || redis(&port, &["set", "key", "kept"])), "OK");
    println!("redis: {:?} from the image to the first answer", since.elapsed());
    // As with a crash: redis is not told.
    host.ok(&["destroy", "--force", "redis"]);
    let (port, since) = run("redis", "redis:7", "6379", &keep);
    assert_eq!(answer("redis", || redis(&port, &["get", "key"])), "kept");
    println!("redis: {:?} to the first answer when the image is there", since.elapsed());
    let load = ["-p", &port, "-t", "set,get", "-n", "2000", "-c", "50", "-q"];
    let said = call(tool("redis", "usr/bin/redis-benchmark", &load)).expect("redis-benchmark runs");
    assert!(["SET: ", "GET: "].iter().all(|word| said.contains(word)) && !said.contains("rror"), "{said}");
    println!("redis-benchmark: {}", said.rsplit(['\r', '\n']).next().unwrap_or_default());
    host.ok(&["destroy", "--force", "redis"]);

    let (port, since) = run("nginx", "nginx:1", "80", &[]);
    let page = answer("nginx", || {
        let asked = TcpStream::connect(format!("127.0.0.1:{port}")).and_then(|mut stream| {
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
            std::io::read_to_string(stream)
        });
        asked.map_err(|e| e.to_string())
    });
    assert!(page.starts_with("HTTP/1.1 200 OK") && page.contains("It works."), "{page}");
    println!("nginx: {:?} from the image to the first answer", since.elapsed());
    host.ok(&["destroy", "nginx"]);

    let (port, since) = run("postgres", "postgres:15", "5432", &["-v", "cluster:/var/lib/postgresql"]);
    let client = ["-h", "127.0.0.1", "-U", "postgres", "-Atc", "select current_user, 6 * 7", "-p", &port];
    let rows = answer("postgres", || call(tool("postgres", "usr/lib/postgresql/15/bin/psql", &client)));
    assert_eq!(rows, "postgres|42");
    println!("postgres: {:?} from the image to the first answer", since.elapsed());
    let pgbench = |words: &[&str]| {
        let place = ["-h", "127.0.0.1", "-U", "postgres", "-p", &port];
        let program = "usr/lib/postgresql/15/bin/pgbench";
        call(tool("postgres", program, &[&place, words, &["postgres"]].concat())).expect("pgbench runs")
    };
    pgbench(&["--initialize", "--init-steps=dtg"]);
    let said = pgbench(&["--client=5", "--transactions=4", "--no-vacuum"]);
    assert!(said.contains("actually processed: 20/20") && said.contains("failed transactions: 0 "), "{said}");
    println!("pgbench: {}", said.lines().last().unwrap_or_default());
    host.ok(&["destroy", "postgres"]);
}
