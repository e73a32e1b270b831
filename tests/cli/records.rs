//! The files that tell of a run: reports, the log of latencies, the trace, the metrics; and what happens where they cannot
//! be written. That tools of others read them is looked at by tools/check_records.py.

use std::io::Read as _;

use serde_json::Value;

use crate::support::{Place, ended, heavy, status, stderr, stdout};

/// Options for one file of each kind, whose names begin with `prefix`.
fn all(prefix: &str) -> String {
    format!(
        "--report {prefix}.html --report {prefix}.json --report {prefix}.txt --hlog {prefix}.hlog --trace {prefix}.trace \
         --metrics {prefix}.prom"
    )
}

fn text(place: &Place, name: &str) -> String {
    String::from_utf8(place.bytes(name)).expect("it is UTF-8")
}

fn parsed(place: &Place, name: &str) -> Value {
    serde_json::from_slice(&place.bytes(name)).expect("it is JSON")
}

/// Items in all spans of a stage.
fn items_of(trace: &Value, stage: &str) -> u64 {
    let events = trace["traceEvents"].as_array().expect("events");
    let spans = events.iter().filter(|event| event["cat"] == stage);
    spans.map(|span| span["args"]["items"].as_u64().unwrap_or(1)).sum()
}

#[test]
fn each_file_of_each_command_has_the_figures_of_the_run() {
    let place = Place::new();
    place.file("d/heavy", &heavy(9_000_000)).file("d/small", b"small").file("d/sub/other", b"other");
    for (command, stages) in [
        ("add -v v -s d --level 6 --chunk-size 1M", &["scan", "read", "compress", "encrypt", "write", "index"][..]),
        ("verify -v v", &["plan", "read", "decrypt", "decompress"]),
        ("extract -v v -o out", &["plan", "read", "decrypt", "decompress", "write"]),
        ("get -v v -t d/heavy -o got", &["plan", "read", "decrypt", "decompress", "write"]),
    ] {
        let name = command.split(' ').next().expect("a word");
        let output = place.unlocked(&format!("{command} {} --json", all(name)));
        assert_eq!(status(&output), 0, "{command}: {}", stderr(&output));
        let printed: Value = serde_json::from_str(&stdout(&output)).expect("an object");

        let mut kept = parsed(&place, &format!("{name}.json"));
        let timeline = kept.as_object_mut().expect("an object").remove("timeline").expect("a timeline");
        assert_eq!(kept, printed, "what --json prints, and the timeline");
        let done = |what: &str| {
            let samples = timeline["samples"].as_array().expect("samples").iter();
            samples.map(|sample| sample[what].as_u64().expect("a number")).sum::<u64>()
        };
        assert_eq!(done("bytes"), printed["total_size"].as_u64().expect("a number"), "{command}");
        if name != "verify" {
            assert_eq!(done("files"), printed["total_files"].as_u64().expect("a number"), "{command}");
        }

        let trace = parsed(&place, &format!("{name}.trace"));
        let page = text(&place, &format!("{name}.html"));
        let summary = text(&place, &format!("{name}.txt"));
        let metrics = text(&place, &format!("{name}.prom"));
        for stage in stages {
            let chunks = printed["stages"][stage]["chunks"].as_u64().expect("a number");
            assert_eq!(items_of(&trace, stage), chunks, "{command}: {stage}");
            assert!(page.contains(&format!("<td>{stage}</td>")), "{command}: {stage}");
            assert!(summary.contains(&format!("\n  {stage} ")), "{command}: {stage}");
            assert!(metrics.contains(&format!("stage=\"{stage}\",quantile=\"0.99\"")), "{command}: {stage}");
        }
        let vault = std::fs::canonicalize(place.path("v")).expect("it is there");
        let exit_code = format!("flint_pipe_exit_code{{command=\"{name}\",vault=\"{}\"}} 0\n", vault.display());
        assert!(metrics.contains(&exit_code), "{metrics}");
        assert!(page.contains(&format!("<h1>flint-pipe {name} v</h1>")) && page.ends_with("</html>\n"));
        let log = text(&place, &format!("{name}.hlog"));
        for kind in ["service", "wait_input"] {
            assert!(
                log.lines().any(|line| line.starts_with(&format!("Tag={}.{kind},", stages[1]))),
                "{command}: {log}"
            );
        }
    }
    let names = std::fs::read_dir(place.directory.path()).expect("it is there");
    let names = names.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
    assert_eq!(names.filter(|name| name.starts_with('.')).count(), 0, "nothing is left beside them");
}

#[test]
fn a_profile_has_them_too() {
    let place = Place::new();
    place.file("d/heavy", &heavy(3_000_000));
    let output = place.unlocked(&format!("profile -s d --time 2s --roofline --sweep {}", all("p")));
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    let page = text(&place, "p.html");
    for part in ["Each stage alone, on one core", "Sweep", "id=\"pareto\"", "Rounds", "<td>compress</td>"] {
        assert!(page.contains(part), "{part}");
    }
    assert_eq!(parsed(&place, "p.json")["kind"], "profile");
    assert!(items_of(&parsed(&place, "p.trace"), "compress") > 0);
    assert!(text(&place, "p.prom").contains("/d\"} 0\n"));
    assert!(text(&place, "p.txt").starts_with("profiled packing d"));
    assert!(text(&place, "p.hlog").contains("Tag=compress.service,"));
}

#[test]
fn what_cannot_be_written_is_an_error_before_anything_is_done() {
    let place = Place::new().with_vault();
    let before = place.bytes("v");
    for (options, code, words) in [
        ("--report r.md", 2, "names no form"),
        ("--report r", 2, "names no form"),
        ("--report a.html --report a.html", 2, "is asked for twice"),
        ("--report a.json --trace ./a.json", 2, "is asked for twice"),
        ("--metrics v", 2, "would take the place of what is packed or read"),
        ("--report none/a.html", 1, "cannot write"),
        ("--hlog d/sub", 1, "a directory is in the way"),
        ("--trace /dev/null", 1, "what is in the way is no file"),
        ("--metrics none/m.prom", 1, "cannot write"),
    ] {
        for command in ["add -v v -s d --force-read", "extract -v v -o out", "verify -v v"] {
            let output = place.unlocked(&format!("{command} {options}"));
            assert_eq!(status(&output), code, "{command} {options}: {}", stderr(&output));
            assert!(stderr(&output).contains(words), "{command} {options}: {}", stderr(&output));
        }
        // What is measured stands where the vault does.
        let line = format!("profile -s d/one --time 1s {options}").replace("--metrics v", "--metrics d/one");
        let output = place.unlocked(&line);
        assert_eq!(status(&output), code, "{line}: {}", stderr(&output));
        assert!(stderr(&output).contains(words), "{line}: {}", stderr(&output));
    }
    assert_eq!(place.bytes("v"), before, "nothing was done");
    assert!(!place.path("out").exists());
}

#[test]
fn a_place_that_goes_away_meanwhile_is_told_and_the_run_is_none_the_worse() {
    let place = Place::new();
    place.file("heavy", &heavy(20_000_000)).file("gone/x", b"");
    let line = format!("add -v v -s heavy --level 15 --chunk-size 512K --progress=plain {}", all("gone/r"));
    let mut child = place.spawn(&line);
    // It waits here until the vault is there: by then everything has been made ready.
    let mut said = child.stderr.take().expect("it is a pipe");
    let began = std::time::Instant::now();
    while !place.path("v").exists() {
        assert!(began.elapsed().as_secs() < 60, "no vault is made");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    std::fs::remove_dir_all(place.path("gone")).expect("it goes away");
    let output = ended(child, std::time::Duration::from_secs(120));
    let mut messages = String::new();
    said.read_to_string(&mut messages).expect("it is UTF-8");
    assert_eq!(status(&output), 0, "{messages}");
    let told = messages.lines().filter(|line| line.contains("none the worse")).count();
    assert_eq!(told, 6, "{messages}");
    place.succeeds("verify -v v");
}

#[test]
fn what_failed_has_its_files_too() {
    let place = Place::new().with_vault();
    let output =
        place.command().env("FLINT_PASSWORD", "wrong").args(["verify", "-v", "v"]).args(all("f").split(' ')).output();
    let output = output.expect("it starts");
    assert_eq!(status(&output), 12, "{}", stderr(&output));
    assert!(text(&place, "f.prom").contains("/v\"} 12\n"));
    assert!(!text(&place, "f.prom").contains("flint_pipe_last_success"), "there was none");
    assert!(text(&place, "f.html").contains("Ended with exit code 12"));
    assert!(text(&place, "f.txt").contains("wrong password"));
    assert_eq!(parsed(&place, "f.json")["exit_code"], 12);
    place.succeeds("verify -v v --metrics f.prom");
    let success = |text: &str| text.lines().find(|line| line.starts_with("flint_pipe_last_success")).map(str::to_owned);
    let first = success(&text(&place, "f.prom")).expect("it went well");
    let output =
        place.command().env("FLINT_PASSWORD", "wrong").args("verify -v v --metrics f.prom".split(' ')).output();
    assert_eq!(status(&output.expect("it starts")), 12);
    assert_eq!(success(&text(&place, "f.prom")), Some(first), "it is remembered");
}

#[test]
fn a_dry_run_leaves_no_files_and_one_to_standard_output_has_its_own() {
    let place = Place::new().with_vault();
    for command in ["add -v v -s d", "extract -v v -o out", "verify -v v", "profile -s d"] {
        let output = place.unlocked(&format!("{command} -n {}", all("n")));
        assert_eq!(status(&output), 0, "{command}: {}", stderr(&output));
        let output = place.unlocked(&format!("{command} -n --report n.pdf"));
        assert_eq!(status(&output), 2, "{command}: what is wrong is told all the same");
    }
    let names = std::fs::read_dir(place.directory.path()).expect("it is there").count();
    assert_eq!(names, 2, "the tree and the vault");
    let output = place.unlocked(&format!("get -v v -t d/two --stdout {}", all("g")));
    assert_eq!((status(&output), output.stdout.len()), (0, 5000), "{}", stderr(&output));
    assert!(text(&place, "g.txt").contains("total size    4.9 KiB"), "{}", text(&place, "g.txt"));
    assert!(!text(&place, "g.txt").contains("read          0 B"), "{}", text(&place, "g.txt"));
}

#[test]
fn whoever_interrupts_at_the_password_finds_nothing_left_behind() {
    let place = Place::new();
    place.file("d/one", b"the first");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_flint-pipe"));
    command.current_dir(place.directory.path()).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.args(["add", "-v", "v", "-s", "d", "--password-command", "touch asked; exec sleep 3 2>/dev/null"]);
    command.args(all("r").split_whitespace()).stdin(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
    let child = command.stdout(std::process::Stdio::piped()).spawn().expect("it starts");
    let began = std::time::Instant::now();
    while !place.path("asked").exists() {
        assert!(began.elapsed().as_secs() < 60, "the password is not asked for");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT)
        .expect("it runs");
    let output = ended(child, std::time::Duration::from_secs(60));
    assert_eq!(status(&output), 130, "{}", stderr(&output));
    let names = std::fs::read_dir(place.directory.path()).expect("it is there");
    let mut names: Vec<_> =
        names.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    assert_eq!(names, ["asked", "d", "r.prom"], "the metrics alone, which say that it was interrupted");
    assert!(text(&place, "r.prom").contains("} 130\n"));
}

#[test]
fn no_file_takes_the_place_of_what_the_command_reads() {
    let place = Place::new();
    place
        .file("notes.txt", b"the only copy")
        .file("pw.txt", b"correct horse battery staple\n")
        .file("ex.txt", b"*.o\n");
    place.file("base.json", b"{}");
    std::os::unix::fs::symlink("real.json", place.path("link.json")).expect("a link");
    for line in [
        "add -v v -s notes.txt --report notes.txt",
        "add -v v -s notes.txt --report ./ex.txt --exclude-from ex.txt",
        "add -v v -s notes.txt --report pw.txt --password-file pw.txt",
        "add -v link.json -s notes.txt --report real.json",
        "profile -s notes.txt --save p.json --report p.json",
        "profile -s notes.txt --compare base.json --report base.json",
    ] {
        let output = place.unlocked(line);
        assert_eq!(status(&output), 2, "{line}: {}", stderr(&output));
        assert!(stderr(&output).contains("would take the place of"), "{line}: {}", stderr(&output));
    }
    assert_eq!(place.bytes("notes.txt"), b"the only copy");
    assert!(!place.path("v").exists() && !place.path("real.json").exists());
}
