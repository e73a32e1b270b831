//! Are vaults read as ever, and hostile ones refused as ever? Vaults that releases have written (tests/vaults), and
//! small ones that are right or wrong in one point (tests/vectors), each with what has to become of it.
//!
//! The vectors come from tools/vectors.py, which was written from docs/FORMAT.md and shares no code with the program;
//! tools/check_reader.sh holds the second reader of the format to the same outcomes. A file that is not in a table here
//! fails, as does a row without a file: none is forgotten, and none goes unnoticed.

#![expect(
    clippy::disallowed_methods,
    reason = "the calls that clippy.toml names are for the program, whose errors need paths"
)]

#[path = "golden/every_command.rs"]
mod every_command;
mod vector;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use assert_cmd::Command;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::vector::{Vector, unhex};

/// Vaults of past and present formats; beside each lies `NAME.json` with what it holds.
const VAULTS: &[&str] = &["v1-everything"];

/// The password of every golden vault.
const PASSWORD: &str = "correct horse";

/// Exit status of `verify`, `list` and `extract`; then the vectors that end so.
const VECTORS: &[(Outcome, &[&str])] = &[
    (
        GOOD,
        &[
            "bytes_that_nobody_refers_to",
            "delete_and_replacement",
            "deltas_at_the_limit",
            "good_component_of_255",
            "good_empty",
            "good_extents",
            "good_hard_links",
            "good_long_varints",
            "good_names_for_a_terminal",
            "good_nodes",
            "good_ordinary",
            "good_overflow_blocks",
            "good_root_and_orphans",
            "good_symlinks_that_lead_out",
            "good_two_table_blocks",
            "good_zstd",
            "headers_of_two_sequences",
            "height_at_the_limit",
            "height_without_a_top",
            "kdf_cost_of_all_slots_at_the_limit",
            "kdf_memory_at_the_limit",
            "kdf_passes_and_lanes_at_the_limit",
            "link_group_of_unlike_entries",
            "optional_alignment",
            "put_buries_though_deleted_later",
            "record_at_the_limit",
            "replacement_of_the_root",
            "roots_of_one_generation",
            "roots_of_two_generations",
            "slots_at_the_limit",
            "symlink_in_the_place_of_a_directory",
            "texts_for_a_terminal",
            "two_deltas_of_one_generation",
            "unknown_slots_and_optional_flags",
        ],
    ),
    (
        DAMAGED,
        &[
            "block_in_the_preamble",
            "bytes_behind_the_last_slot",
            "bytes_left_over",
            "bytes_missing",
            "commit_bytes_left_over",
            "commit_count_too_large",
            "commit_digest_wrong",
            "commit_of_another_generation",
            "commit_record_of_another_kind",
            "delta_of_a_later_generation",
            "delta_of_generation_zero",
            "delta_that_the_full_index_covers",
            "deltas_descend",
            "exception_of_all",
            "exception_of_another_subtree",
            "exception_with_dotdot",
            "extent_begins_behind_its_record",
            "extent_count_too_large",
            "extent_longer_than_its_records",
            "extent_numbers_overflow",
            "extent_of_no_records",
            "extent_of_no_segment",
            "extent_of_unknown_alternative",
            "extent_with_a_record_too_many",
            "flags_unknown",
            "full_index_of_a_later_generation",
            "full_index_with_a_delete",
            "full_index_with_a_replacement",
            "header_checksum_wrong",
            "header_mac_flipped",
            "header_sequence_zero",
            "height_of_another_tree",
            "height_too_large",
            "highest_snapshot_too_low",
            "hole_of_no_bytes",
            "index_count_too_large",
            "largest_record_too_large",
            "leaf_in_the_order_of_bytes",
            "leaf_out_of_order",
            "leaf_plain_too_large",
            "leaf_too_large",
            "leaf_without_items",
            "leaves_out_of_order",
            "link_group_of_no_segment",
            "magic_of_another_program",
            "mode_with_a_file_type",
            "nanoseconds_too_many",
            "nine_password_slots",
            "node_hides_an_item",
            "node_out_of_order",
            "node_refers_to_a_leaf_twice",
            "node_that_is_its_own_child",
            "node_that_lies_about_a_first_path",
            "node_without_children",
            "number_of_eleven_bytes",
            "number_too_large_for_its_type",
            "option_of_two",
            "overflow_beyond_the_file",
            "overflow_bomb",
            "overflow_bytes_left_over",
            "overflow_size_is_not_the_sum",
            "owner_missing",
            "path_absolute",
            "path_ends_with_a_slash",
            "path_shares_more_than_there_is",
            "path_too_long",
            "path_twice",
            "path_twice_in_two_leaves",
            "path_with_a_component_of_256",
            "path_with_dot",
            "path_with_dotdot",
            "path_with_nul",
            "path_with_too_many_components",
            "path_with_two_slashes",
            "paths_bomb",
            "previous_not_before",
            "put_below_a_file",
            "put_below_a_symlink",
            "put_below_a_symlink_in_another_leaf",
            "record_checksum_wrong",
            "record_ciphertext_flipped",
            "record_codec_unknown",
            "record_in_anothers_place",
            "record_is_no_frame",
            "record_magic_wrong",
            "record_number_too_large",
            "record_of_another_kind",
            "record_of_another_number",
            "record_of_another_segment",
            "record_plain_length_too_large",
            "record_reserved_not_zero",
            "record_shorter_than_its_reference",
            "record_stored_but_longer",
            "record_tag_flipped",
            "replacement_with_dotdot",
            "replacement_within_another",
            "replacements_out_of_order",
            "reserved_bytes_not_zero",
            "root_checksum_wrong",
            "root_end_before_its_commit_record",
            "root_end_beyond_the_file",
            "root_end_of_all_ones",
            "root_generation_zero",
            "root_is_a_file",
            "root_length_too_large",
            "root_mac_flipped",
            "root_number_too_large",
            "root_of_another_vault",
            "root_offset_in_the_preamble",
            "root_offset_overflows",
            "root_offset_unaligned",
            "root_reserved_not_zero",
            "segment_header_of_no_segment",
            "size_is_not_the_sum",
            "size_of_a_directory",
            "size_too_large",
            "slot_bytes_behind_the_label",
            "slot_commitment_of_another_password",
            "slot_count_too_large",
            "slot_ids_not_unique",
            "slot_label_not_utf8",
            "slot_label_too_long",
            "slot_of_another_algorithm",
            "slot_of_kind_zero",
            "slot_of_no_length",
            "slot_reaches_into_the_mac",
            "slot_wraps_another_master_key",
            "suffix_too_long",
            "sum_of_extents_overflows",
            "symlink_to_nowhere",
            "symlink_with_nul",
            "table_blocks_out_of_order",
            "table_of_no_segment",
            "target_of_a_file",
            "ten_thousand_slots",
            "text_not_utf8",
            "thirty_three_other_slots",
            "three_deltas_of_one_generation",
            "too_many_deltas",
            "tree_head_bytes_left_over",
            "tree_head_count_too_large",
            "tree_of_no_segment",
            "type_unknown",
            "xattr_too_long",
            "xattr_with_nul",
            "xattr_without_a_name",
        ],
    ),
    (
        REFUSED,
        &[
            "commit_flags",
            "commit_with_a_wrapped_key",
            "critical_flag",
            "kdf_cost_of_all_slots_just_too_large",
            "kdf_cost_of_all_slots_too_large",
            "kdf_lanes_too_many",
            "kdf_memory_too_large",
            "kdf_memory_too_small",
            "kdf_parameters_of_all_ones",
            "kdf_passes_too_many",
            "kdf_passes_zero",
            "record_flags",
            "record_of_unknown_version",
            "root_of_unknown_version",
            "root_with_a_wrapped_key",
            "segment_with_a_wrapped_key",
            "tree_head_flags",
            "unknown_version",
        ],
    ),
    (WRONG_PASSWORD, &["no_password_slot", "password_of_no_slot", "password_of_the_older_header", "slot_salt_changed"]),
    (
        BAD_CONTENT,
        &[
            "bomb_plain_length",
            "data_record_shorter_than_its_place",
            "data_record_tag_flipped",
            "data_record_under_the_meta_key",
            "extent_beyond_record",
            "extent_of_billions_of_records",
            "extent_without_a_place",
            "frame_and_a_byte",
            "frame_and_another",
            "frame_cut",
            "frame_of_another_size",
            "frame_shorter_than_it_says",
            "frame_with_a_dictionary",
            "frame_with_too_large_a_window",
            "frame_without_its_size",
            "place_beyond_the_file",
            "place_larger_than_the_largest",
            "place_of_anothers_record",
            "place_of_no_bytes",
            "place_overflows",
            "place_with_another_plain_length",
            "places_that_overlap",
            "skippable_frame_first",
            "table_begins_with_another_number",
            "table_out_of_order",
        ],
    ),
    (
        BAD_SPARE,
        &[
            "content_bytes_wrong",
            "deltas_at_the_limit_behind_a_gap",
            "header_a_forged",
            "header_a_of_unknown_version",
            "header_a_torn",
            "header_a_with_a_slot_that_does_not_open",
            "previous_beyond_the_file",
            "previous_is_itself",
            "previous_of_another_digest",
            "previous_of_another_generation",
            "reserved_range_not_zero",
            "root_b_torn",
            "segment_header_torn",
            "sums_wrong",
            "table_block_empty",
            "two_places_of_one_record",
        ],
    ),
];

/// How the three commands that read a vault end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Outcome {
    verify: i32,
    list: i32,
    extract: i32,
}

/// All three end alike.
const fn all(status: i32) -> Outcome {
    Outcome { verify: status, list: status, extract: status }
}

/// Nothing is wrong.
const GOOD: Outcome = all(0);
/// Nothing is believed of it.
const DAMAGED: Outcome = all(13);
/// Made by a later version, or more expensive to open than a stranger may ask for.
const REFUSED: Outcome = all(1);
/// The header is for another password.
const WRONG_PASSWORD: Outcome = all(12);
/// What is wrong is no part of the entries' names: whoever reads content finds it.
const BAD_CONTENT: Outcome = Outcome { verify: 13, list: 0, extract: 13 };
/// What is wrong is not needed: a spare copy, an older commit, what is for display.
const BAD_SPARE: Outcome = Outcome { verify: 13, list: 0, extract: 0 };

fn tests_dir(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

/// The names of the files in a directory of tests.
fn names(directory: &str) -> BTreeSet<String> {
    let files = fs::read_dir(tests_dir(directory)).expect("the directory is part of the repository");
    files.map(|file| file.expect("it can be listed").file_name().into_string().expect("ASCII")).collect()
}

/// Runs the program on a vault.
fn flint(command: &str, vault: &Path, password: &str, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_flint-pipe"))
        .env_clear()
        .env("FLINT_PASSWORD", password)
        .arg(command)
        .arg("-v")
        .arg(vault)
        .args(more)
        // A hostile vault must not make it hang either.
        .timeout(Duration::from_secs(120))
        .output()
        .expect("it starts")
}

/// `list --json` shows these entries in this order. Fields that are added later are no difference.
fn check_listing(output: &Output, expected: &[Value]) -> Result<(), String> {
    let text = String::from_utf8_lossy(&output.stdout);
    let listed: Vec<Value> =
        text.lines().map(serde_json::from_str).collect::<Result<_, _>>().map_err(|error| format!("{error}: {text}"))?;
    if listed.len() != expected.len() {
        return Err(format!("lists {} entries, not {}:\n{text}", listed.len(), expected.len()));
    }
    for (listed, expected) in listed.iter().zip(expected) {
        for (field, value) in expected.as_object().expect("an object a line") {
            if listed.get(field) != Some(value) {
                return Err(format!("lists {listed}, not {expected}"));
            }
        }
    }
    Ok(())
}

/// A file below `out` has this SHA-256, in hex.
fn check_content(out: &Path, path: &Path, expected: &str) -> Result<(), String> {
    let bytes = fs::read(out.join(path)).map_err(|error| format!("{}: {error}", path.display()))?;
    let found: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    if found == expected { Ok(()) } else { Err(format!("{} has the digest {found}", path.display())) }
}

/// Whether a command ended as expected. Without root, or on a file system without extended attributes, what was to be
/// restored whole lacks something.
fn check_status(output: &Output, command: &str, expected: i32) -> Result<(), String> {
    let found = output.status.code();
    if found == Some(expected) || (command == "extract" && expected == 0 && found == Some(3)) {
        return Ok(());
    }
    Err(format!("{command} ends with {found:?}, not {expected}: {}", String::from_utf8_lossy(&output.stderr)))
}

/// What the commands have to make of a vector.
trait Expected {
    fn outcome(&self) -> Outcome;
    /// Reads it in all three ways, in a directory of its own.
    fn check(&self, expected: Outcome) -> Result<(), String>;
}

impl Expected for Vector {
    fn outcome(&self) -> Outcome {
        Outcome { verify: self.number("verify"), list: self.number("list"), extract: self.number("extract") }
    }

    fn check(&self, expected: Outcome) -> Result<(), String> {
        let place = tempfile::tempdir().expect("a temporary directory");
        let (vault, out) = (place.path().join("vector.flint"), place.path().join("out"));
        fs::write(&vault, &self.vault).expect("it can be written");
        let password = self.one("password");
        check_status(&flint("verify", &vault, password, &[]), "verify", expected.verify)?;
        let listed = flint("list", &vault, password, &["--json"]);
        check_status(&listed, "list", expected.list)?;
        if expected.list == 0 {
            let listing: Vec<Value> =
                self.all("listing").map(|line| serde_json::from_str(line).expect("an object")).collect();
            check_listing(&listed, &listing)?;
        }
        let extracted = flint("extract", &vault, password, &["-o", out.to_str().expect("ASCII")]);
        check_status(&extracted, "extract", expected.extract)?;
        self.all("content").try_for_each(|line| {
            let (digest, path) = line.split_once(' ').expect("a digest and a path");
            check_content(&out, Path::new(path), digest)
        })
    }
}

#[test]
fn every_vector_is_in_the_table_once_and_every_row_has_its_file() {
    let rows: Vec<String> = VECTORS.iter().flat_map(|(_, names)| *names).map(|name| (*name).to_owned()).collect();
    let listed: BTreeSet<String> = rows.iter().cloned().collect();
    assert_eq!(listed.len(), rows.len(), "a name stands twice");
    assert_eq!(listed, names("vectors"));
}

/// Does `check` for each vector, in as many threads as there are processors, and fails with all that it says.
fn for_every_vector(check: impl Fn(&str, &Vector, Outcome) -> Result<(), String> + Sync) {
    let cases: Vec<(Outcome, &str)> =
        VECTORS.iter().flat_map(|(outcome, names)| names.iter().map(|name| (*outcome, *name))).collect();
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some(&(expected, name)) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            let text = fs::read_to_string(tests_dir("vectors").join(name)).expect("it is there");
            if let Err(why) = check(name, &Vector::parse(&text), expected) {
                wrong.lock().expect("no check panics").push(format!("{name}: {why}"));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let wrong = wrong.into_inner().expect("no check panics");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_vector_ends_as_the_table_says() {
    for_every_vector(|name, vector, expected| {
        if vector.outcome() == expected && vector.one("point") == name {
            vector.check(expected)
        } else {
            Err(format!("its own fields say {:?}", vector.outcome()))
        }
    });
}

#[test]
fn every_golden_vault_is_in_the_table_and_every_row_has_its_files() {
    let listed: BTreeSet<String> =
        VAULTS.iter().flat_map(|name| [format!("{name}.flint"), format!("{name}.json")]).collect();
    assert_eq!(listed, names("vaults"));
}

#[test]
fn golden_vaults_hold_what_they_held() {
    for name in VAULTS {
        let golden = tests_dir("vaults").join(format!("{name}.flint"));
        let place = tempfile::tempdir().expect("a temporary directory");
        // A copy: a test must not be able to change it.
        let vault = place.path().join("golden.flint");
        fs::copy(&golden, &vault).expect("it can be copied");
        let text = fs::read_to_string(golden.with_extension("json")).expect("it is there");
        let mut snapshots: BTreeMap<u64, Vec<Value>> = BTreeMap::new();
        for line in text.lines() {
            let expected: Value = serde_json::from_str(line).expect("an object a line");
            snapshots.entry(expected["snapshot"].as_u64().expect("a number")).or_default().push(expected);
        }
        assert!(!snapshots.is_empty(), "{name} says what it holds");
        check_status(&flint("verify", &vault, PASSWORD, &[]), "verify", 0).unwrap();
        for (number, expected) in snapshots {
            let at = number.to_string();
            let entries: Vec<Value> = expected.iter().map(|line| line["entry"].clone()).collect();
            let listed = flint("list", &vault, PASSWORD, &["--json", "--at", &at]);
            check_listing(&listed, &entries).unwrap_or_else(|why| panic!("{name}, snapshot {number}: {why}"));
            let out = place.path().join(&at);
            let extracted = flint("extract", &vault, PASSWORD, &["--at", &at, "-o", out.to_str().unwrap()]);
            check_status(&extracted, "extract", 0).unwrap();
            for line in &expected {
                let Some(digest) = line["sha256"].as_str() else { continue };
                let path = OsString::from_vec(unhex(line["path_hex"].as_str().expect("a path")));
                check_content(&out, Path::new(&path), digest)
                    .unwrap_or_else(|why| panic!("{name}, snapshot {number}: {why}"));
            }
        }
    }
}
