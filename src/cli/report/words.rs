//! A report in words: what its numbers mean, what is good news and what is not.

mod sections;

use super::super::output::counted;
use super::super::when::{Clock, span};
use crate::archive::report::chart::grouped;
use crate::archive::report::document::{Document, Remark, Tone};
use crate::archive::report::recording::{Gap, Recording, Why};
use crate::archive::report::{Report, Verified};

/// All of it.
pub fn document(report: &Report, name: &str, clock: &Clock) -> Document {
    let words = Words { report, name, clock };
    Document {
        title: format!("Chat recording: {name}"),
        facts: words.facts(),
        verdict: words.verdict(),
        sections: vec![
            words.recording(),
            words.account(),
            words.chats(),
            words.holes(),
            words.errors(),
            words.oddities(),
            words.custody(),
            words.proof(),
            words.limits(),
        ],
        signed: words.signed(),
    }
}

struct Words<'r> {
    report: &'r Report,
    name: &'r str,
    clock: &'r Clock,
}

fn remark(tone: Tone, text: impl Into<String>) -> Remark {
    Remark { tone, text: text.into() }
}

fn fact(name: &str, value: impl Into<String>) -> (String, String) {
    (name.to_owned(), value.into())
}

/// `1 234 chats`
fn many(count: i64, noun: &str) -> String {
    counted(count, noun).replacen(&count.to_string(), &grouped(count), 1)
}

fn as_i64(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

impl Words<'_> {
    fn facts(&self) -> Vec<(String, String)> {
        let Report { archive_id, files, version, period, as_of, .. } = self.report;
        let mut facts = vec![fact("Archive", archive_id.as_str())];
        if *files > 1 {
            facts.push(fact("Files", format!("{files}, read as one; what proves them is said of the first")));
        }
        facts.push(fact(
            "Period",
            format!("{}, days of {}", self.clock.stretch(period.from, period.until), self.zone()),
        ));
        facts.push(fact("As of", self.clock.date_time(*as_of)));
        if let Some(copied_at) = self.report.recording.copied_at {
            let at = self.clock.date_time(copied_at);
            facts.push(fact("Copy", format!("this is a copy of the archive (a backup or snapshot), and ends at {at}")));
        }
        facts.push(fact("Made by", format!("gms-recorder {version}")));
        facts
    }

    fn zone(&self) -> String {
        self.clock.zone.iana_name().map_or_else(|| self.clock.offset(), str::to_owned)
    }

    fn verdict(&self) -> Vec<Remark> {
        let mut verdict = vec![self.whether_recorded()];
        verdict.extend(self.whether_put_back());
        verdict.extend(self.what_was_lost());
        verdict.extend(self.whether_whole());
        verdict.extend(self.what_vouches());
        verdict
    }

    /// Was it recording throughout?
    fn whether_recorded(&self) -> Remark {
        let Recording { span: asked, gaps, runs, on_ms, copied_at, .. } = &self.report.recording;
        if asked.from >= asked.until {
            return match copied_at.filter(|_| self.report.as_of > asked.from) {
                None => remark(Tone::Note, "The period is still to come: there is nothing to tell of it."),
                Some(at) => {
                    let at = self.clock.date_time(at);
                    remark(
                        Tone::Note,
                        format!("This is a copy, which ends at {at}, before the period: it tells nothing of it."),
                    )
                }
            };
        }
        if runs.is_empty() {
            return remark(Tone::Bad, format!("Nothing was recorded in {}: no recorder ran.", self.name));
        }
        let end = self.clock.date_time(asked.until);
        let until_now = match (asked.until < self.report.period.until, copied_at) {
            (false, _) => String::new(),
            (true, Some(_)) => format!(" until this copy of the archive was made ({end})"),
            (true, None) => format!(" until now ({end})"),
        };
        let (before, off): (Vec<&Gap>, Vec<&Gap>) = gaps.iter().partition(|gap| gap.why == Why::NotBegun);
        let (what, from) = match before.first() {
            None => (format!("Recording was {{}} throughout {}{until_now}", self.name), asked.from),
            Some(before) => {
                let began = self.clock.date_time(before.span.until);
                (
                    format!(
                        "Recording began at {began}, and was {{}} throughout from then{}",
                        if until_now.is_empty() { " on" } else { &until_now }
                    ),
                    before.span.until,
                )
            }
        };
        let Some(longest) = off.iter().map(|gap| gap.span).max_by_key(|gap| gap.until - gap.from) else {
            let tone = if before.is_empty() { Tone::Good } else { Tone::Note };
            return remark(tone, format!("{}.", what.replacen("{}", "on", 1)));
        };
        // Never rounded up to all of it.
        let percent = (*on_ms as f64 / (asked.until - from) as f64 * 10_000.0).floor() / 100.0;
        let off_ms = off.iter().map(|gap| gap.span.until - gap.span.from).sum();
        let longest = self.clock.stretch(longest.from, longest.until);
        let times = match off.len() {
            1 => format!("off once, for {}, {longest}", span(off_ms)),
            times => format!("off {times} times, for {} in all, the longest time {longest}", span(off_ms)),
        };
        let what = what.replacen("{}", "not on", 1);
        remark(Tone::Bad, format!("{what}: it was on for {percent:.2} % of the time, and {times}."))
    }

    fn whether_put_back(&self) -> Option<Remark> {
        let times: Vec<String> = self.report.restored_at.iter().map(|at| self.clock.date_time(*at)).collect();
        let what = "what was recorded between that backup and then is not in it, nor in any figure here. `restore` said at the \
                    time what was lacking, by the anchors that it was given, and `verify --anchor` says it still";
        (!times.is_empty()).then(|| {
            remark(Tone::Bad, format!("The archive was put back from a backup ({}): {what}.", times.join(", ")))
        })
    }

    fn what_was_lost(&self) -> Vec<Remark> {
        let account = &self.report.account;
        let (seen, dropped, refused) =
            (as_i64(account.account.seen), as_i64(account.account.dropped), as_i64(account.account.refused));
        let dropped = dropped.max(self.report.outages.iter().map(|outage| outage.dropped).sum());
        let mut said = Vec::new();
        if dropped > 0 {
            let what = "were given to clients and will never be recorded: see the outages below";
            said.push(remark(Tone::Bad, format!("{} {what}.", many(dropped, "event"))));
        } else if seen > 0 {
            said.push(remark(Tone::Good, format!("Of {} that were seen, none was lost.", many(seen, "event"))));
        }
        if refused > 0 {
            let what = "could not be recorded and were therefore not given to clients (when_unavailable = refuse)";
            said.push(remark(Tone::Note, format!("{} {what}.", many(refused, "event"))));
        }
        if !account.unknown.is_empty() {
            let runs = account.unknown.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let what =
                "have no account by the hour (an earlier release): how much they saw in this period is not known";
            said.push(remark(Tone::Note, format!("Runs {runs} {what}.")));
        }
        said
    }

    fn whether_whole(&self) -> Vec<Remark> {
        let chats = &self.report.chats;
        let removed = self.removed_since();
        let mut said = Vec::new();
        match (chats.seen, &removed) {
            (0, Some(removed)) => {
                said.push(remark(Tone::Note, format!("No chat of the period is in the archive; {removed}.")));
            }
            (1.., _) if self.report.holes.chats == 0 => {
                let what = "as delivered to the clients behind this recorder";
                let all = if chats.seen == 1 {
                    "The one chat of the period that is in the archive has".to_owned()
                } else {
                    format!("All {} of the period that are in the archive have", many(chats.seen, "chat"))
                };
                let removed = removed.as_ref().map_or(String::new(), |removed| format!("; {removed}"));
                let but: Vec<String> = [
                    (chats.open > 0).then(|| format!("{} still open", grouped(chats.open))),
                    (chats.incomplete > 0)
                        .then(|| format!("of {} nothing was seen but errors", grouped(chats.incomplete))),
                ]
                .into_iter()
                .flatten()
                .collect();
                said.push(match but.is_empty() {
                    true => remark(Tone::Good, format!("{all} no hole: whole, {what}{removed}.")),
                    false => {
                        let but = but.join(", ");
                        remark(Tone::Good, format!("{all} no hole in what was seen, {what} ({but}){removed}."))
                    }
                });
            }
            _ => {}
        }
        if self.report.holes.chats > 0 {
            let holes = many(self.report.holes.chats as i64, "chat");
            let removed = removed.map_or(String::new(), |removed| format!("; {removed}"));
            let what = format!(
                "holes: positions of the transcript that no answer covered. The reasons are given below{removed}"
            );
            said.push(remark(
                Tone::Bad,
                format!(
                    "{holes} of {} {} {what}.",
                    grouped(chats.seen),
                    if self.report.holes.chats == 1 { "has" } else { "have" }
                ),
            ));
        }
        let findings: i64 = self.report.findings.iter().map(|finding| finding.count).sum();
        if findings > 0 {
            said.push(remark(
                Tone::Note,
                format!(
                    "{} of what could not be read or keyed: kept, for a person to look at.",
                    many(findings, "finding")
                ),
            ));
        }
        said
    }

    /// `18 were removed since (…)`
    fn removed_since(&self) -> Option<String> {
        let (removed, _) = self.report.account.removed_since;
        let was = if removed == 1 { "was" } else { "were" };
        (removed > 0).then(|| format!("{} {was} removed since (see \"{}\")", grouped(removed), sections::CUSTODY))
    }

    /// Nothing that the archive has, or had, is of the period.
    fn has_nothing(&self) -> bool {
        let Report { recording, account, chats, .. } = self.report;
        recording.runs.is_empty() && account.recorded == 0 && account.removed_since.0 == 0 && chats.seen == 0
    }

    fn what_vouches(&self) -> Vec<Remark> {
        let proof = &self.report.proof;
        let mut said = Vec::new();
        match (&proof.covers_period, &proof.last) {
            (_, Some(_)) if self.has_nothing() => {}
            (Some(checkpoint), _) if checkpoint.is_signed => said.push(remark(
                Tone::Good,
                format!(
                    "What was recorded in it lies under checkpoint {}, signed {}.",
                    checkpoint.number,
                    self.clock.date_time(checkpoint.at)
                ),
            )),
            (Some(checkpoint), _) => said.push(remark(
                Tone::Bad,
                format!(
                    "Checkpoint {} is not signed with a key of this archive: run `gms-recorder verify`.",
                    checkpoint.number
                ),
            )),
            (None, Some(last)) => said.push(remark(
                Tone::Note,
                format!(
                    "Not all that was recorded in it is signed yet: the last checkpoint, {}, is of {}.",
                    last.number,
                    self.clock.date_time(last.at)
                ),
            )),
            (None, None) => said.push(remark(Tone::Bad, "Nothing of this archive is signed.")),
        }
        match &proof.verified {
            Some(verified) if verified.faults == 0 => said.push(as_sealed(verified)),
            Some(verified) if verified.is_of_later_key => said.push(remark(
                Tone::Bad,
                "Not all of it could be verified for this report with the key that was given, which is not the archive's first.",
            )),
            Some(verified) => said.push(remark(
                Tone::Bad,
                format!(
                    "NOT AS IT WAS SEALED: {} when it was verified for this report.",
                    many(as_i64(verified.faults), "fault")
                ),
            )),
            None => said.push(remark(Tone::Note, "It was not verified for this report (--verify).")),
        }
        said
    }

    fn signed(&self) -> Vec<(String, String)> {
        let report = self.report;
        let mut signed = vec![
            fact("Report", format!("{}, as of {}", self.name, self.clock.date_time(report.as_of))),
            fact("Archive", report.archive_id.as_str()),
        ];
        let checkpoint = report.proof.covers_period.as_ref().or(report.proof.last.as_ref());
        match checkpoint {
            Some(checkpoint) => {
                signed.push(fact(
                    "Checkpoint",
                    format!("{} of {}", checkpoint.number, self.clock.date_time(checkpoint.at)),
                ));
                signed.push(fact("Root", checkpoint.root.as_str()));
            }
            None => signed.push(fact("Checkpoint", "none")),
        }
        signed
    }
}

/// It has no fault; what no checkpoint covers might have been written by anybody.
fn as_sealed(verified: &Verified) -> Remark {
    let rows = format!("Verified for this report: {} are as they were sealed", many(as_i64(verified.rows), "row"));
    match verified.leaves.saturating_sub(verified.signed_leaves) {
        0 => remark(Tone::Good, format!("{rows}.")),
        newer => remark(
            Tone::Note,
            format!(
                "{rows}; {} of the {} leaves of its tree are newer than the last checkpoint: nobody vouches for them yet.",
                grouped(as_i64(newer)),
                grouped(as_i64(verified.leaves))
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_no_checkpoint_covers_are_no_good_news() {
        for (signed_leaves, tone, end) in [
            (976, Tone::Good, "976 rows are as they were sealed."),
            (
                5,
                Tone::Note,
                "971 of the 976 leaves of its tree are newer than the last checkpoint: nobody vouches for them yet.",
            ),
        ] {
            let (first_faults, anchors, warnings) = Default::default();
            let verified = Verified {
                rows: 976,
                leaves: 976,
                signed_leaves,
                faults: 0,
                first_faults,
                checkpoints: 1,
                anchors,
                anchored: 0,
                warnings,
                is_of_later_key: false,
            };
            let said = as_sealed(&verified);
            assert!(said.tone == tone && said.text.ends_with(end), "{}", said.text);
        }
    }
}
