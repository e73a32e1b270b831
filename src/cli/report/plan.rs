//! What a run works with, or would, as a table for a person.

use std::fmt::Write as _;

use flint_pipe::{PlanReport, format_size};

use crate::cli::report::wrapped;

/// Threads, queues, buffers and the memory that follows from them; 80 columns.
pub(crate) fn table(plan: &PlanReport) -> String {
    let mut text = format!("\n  {:<10} {:>7} {:>7}\n", "stage", "threads", "queue");
    for (name, workers) in &plan.workers {
        let depth = plan.queue_depths.iter().find(|(stage, _)| stage == name);
        let depth = depth.map_or_else(|| "-".to_owned(), |(_, depth)| depth.to_string());
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {name:<10} {workers:>7} {depth:>7}");
    }
    text.push('\n');
    for (name, value) in [
        ("chunk size", format!("{} at most", format_size(plan.chunk_size.into()))),
        ("buffers", format_size(plan.buffer_bytes)),
        ("in flight", format!("{} entries at most", plan.entries_in_flight)),
        ("peak memory", format!("{} at most, as predicted", format_size(plan.peak_memory_bytes))),
    ] {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {name:<13} {value}");
    }
    if !plan.reasons.is_empty() {
        text.push('\n');
    }
    for (stage, reason) in &plan.reasons {
        text.push_str(&wrapped(stage, reason));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_an_aligned_table_with_its_memory_below() {
        let mut plan = PlanReport::default();
        plan.workers = vec![("scan", 1), ("decompress", 1024)];
        plan.queue_depths = vec![("decompress", 65_536)];
        plan.chunk_size = 4 << 20;
        plan.buffer_bytes = 128 << 20;
        plan.entries_in_flight = 65_536;
        plan.peak_memory_bytes = 200 << 20;
        let lines = [
            "",
            "  stage      threads   queue",
            "  scan             1       -",
            "  decompress    1024   65536",
            "",
            "  chunk size    4 MiB at most",
            "  buffers       128 MiB",
            "  in flight     65536 entries at most",
            "  peak memory   200 MiB at most, as predicted",
        ];
        assert_eq!(table(&plan).lines().collect::<Vec<_>>(), lines);
        plan.reasons = vec![("scan", "a quarter of the cores (2), 1 to 4".to_owned()), ("read", "why ".repeat(30))];
        let text = table(&plan);
        assert!(text.contains("\n\n  scan          a quarter of the cores (2), 1 to 4\n  read          why"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }
}
