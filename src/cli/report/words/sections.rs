//! The sections of a report, in its order.

use super::super::super::output::counted;
use super::super::super::when::{self, span};
use super::{Words, as_i64, fact, many};
use crate::archive::report::chart::{Bars, Chart, Stretch, Timeline, grouped};
use crate::archive::report::document::{Block, Section, Table};
use crate::archive::report::recording::{Ending, Gap, Lifetime, Recording, Why};
use crate::archive::report::{Anchor, Checkpoint, Piece, Reason, Told, ToldHole};
use crate::store::read::period::{Count, OutageRow, Span};

/// Rows of gaps, runs and outages that are told; how many more there are is said.
const ROWS_MAX: usize = 60;
/// Marks below a timeline, at most.
const MARKS_MAX: usize = 8;

/// The section on what was masked, removed and read.
pub(super) const CUSTODY: &str = "Masked, removed, held, read";

impl Words<'_> {
    /// The options of other commands for the period.
    fn times(&self) -> String {
        let Span { from, until } = self.report.period;
        let option = |name: &str, at| when::iso(at).map_or(String::new(), |at| format!(" {name} {at}"));
        option("--since", from) + &option("--until", until)
    }

    pub(super) fn recording(&self) -> Section {
        let Recording { span: asked, on_ms, recorders, gaps, .. } = &self.report.recording;
        let whole = asked.until - asked.from;
        let before = gaps.iter().filter(|gap| gap.why == Why::NotBegun).map(|gap| gap.span.until - gap.span.from);
        let known = whole - before.sum::<i64>();
        let recorded = match self.report.recording.began_at() {
            _ if known == 0 => "no time: no recorder ran, or the period is still to come".to_owned(),
            Some(began) => {
                format!("{} of {}, since it began at {}", span(*on_ms), span(known), self.clock.date_time(began))
            }
            None => format!("{} of {}", span(*on_ms), span(known)),
        };
        let facts = vec![fact("Recorded for", recorded), fact("Recorders", recorders.to_string())];
        let timeline = (whole > 0).then(|| Block::Chart(Chart::Timeline(self.timeline())));
        let blocks = std::iter::once(Block::Facts(facts)).chain(timeline).chain(self.gaps());
        let blocks = blocks.chain([self.runs()]).chain(self.outages()).collect();
        Section { id: "recording", title: "Was it recording?", blocks }
    }

    fn gaps(&self) -> Vec<Block> {
        let gaps = &self.report.recording.gaps;
        if gaps.is_empty() && self.report.recording.runs.is_empty() {
            return Vec::new();
        }
        if gaps.is_empty() {
            return vec![Block::Words("There was no time in which no recorder ran.".into())];
        }
        let (told, left_out) = cut(gaps);
        let row = |gap: &Gap| {
            let Span { from, until } = gap.span;
            vec![self.clock.date_time(from), self.clock.date_time(until), span(until - from), why(gap.why).into()]
        };
        let table = Table::new("When no recorder ran", &["from", "until", "for", "because"]).with(told.iter().map(row));
        let what = "A recorder stands inline: while it does not run nothing passes through it. What clients did on another way in that \
                    time is not in this archive; of chats that went on meanwhile see what is missing below.";
        let has_run_before = gaps.iter().any(|gap| gap.why != Why::NotBegun);
        let what = has_run_before.then(|| Block::Words(what.into()));
        std::iter::once(Block::Table(Table { left_out, ..table })).chain(what).collect()
    }

    fn runs(&self) -> Block {
        let (told, left_out) = cut(&self.report.recording.runs);
        let row = |life: &Lifetime| {
            let until = self.clock.date_time(life.span.until);
            let end = match life.ending {
                Ending::Stopped => format!("stopped {until}"),
                Ending::Died => format!("died, last heard of {until}"),
                Ending::PutBack => format!("put back from a backup; last heard of {until}"),
                Ending::GoesOn => "goes on".into(),
                Ending::LastHeard => format!("last heard of {until}"),
            };
            let (number, started) = (life.run_id.to_string(), self.clock.date_time(life.span.from));
            vec![number, life.instance.clone(), life.version.clone(), started, end, life.when_unavailable.clone()]
        };
        let names = ["run>", "on", "version", "started", "end", "when unavailable"];
        Block::Table(Table { left_out, ..Table::new("Runs", &names).with(told.iter().map(row)) })
    }

    fn outages(&self) -> Vec<Block> {
        let outages = &self.report.outages;
        if outages.is_empty() && self.report.recording.runs.is_empty() {
            return Vec::new();
        }
        if outages.is_empty() {
            return vec![Block::Words(
                "There was no outage: whenever a recorder ran, the archive took what it brought.".into(),
            )];
        }
        let (told, left_out) = cut(outages);
        let row = |outage: &OutageRow| {
            let OutageRow { started_at, ended_at, reason, events, spooled, delivered_early, refused, dropped, .. } =
                outage;
            let length = ended_at.map_or("it lasts".into(), |ended_at| span(ended_at - started_at));
            let counts = [events, spooled, delivered_early, refused, dropped].map(|count| grouped(*count));
            [self.clock.date_time(*started_at), length, reason.clone()].into_iter().chain(counts).collect()
        };
        let names = ["from", "for", "reason", "events>", "spooled>", "early>", "refused>", "lost>"];
        let table = Table::new("Outages: the archive did not take what was seen", &names).with(told.iter().map(row));
        let what = "Of the events that an outage touched: spooled were kept in a second file and brought here afterwards; early had their clients before they were on disk here, and were written later; refused were not given to clients; lost were given to clients and will never be written.";
        vec![Block::Table(Table { left_out, ..table }), Block::Words(what.into())]
    }

    fn timeline(&self) -> Timeline {
        let period = self.report.period;
        let at = |ms: i64| (ms - period.from) as f64 / (period.until - period.from) as f64;
        let Recording { span: asked, gaps, .. } = &self.report.recording;
        let stretch = |from: i64, until: i64, kind, what: &str| Stretch {
            from: at(from),
            until: at(until),
            kind,
            what: format!("{what}: {}", self.clock.stretch(from, until)),
        };
        let mut on = vec![stretch(asked.from, asked.until, "on", "on")];
        if asked.until < period.until {
            let what =
                if self.report.recording.copied_at.is_some() { "after this copy was made" } else { "still to come" };
            on.push(stretch(asked.until, period.until, "unknown", what));
        }
        for Gap { span: gap, why: because } in gaps {
            let kind = if *because == Why::NotBegun { "before" } else { "off" };
            on.push(stretch(gap.from, gap.until, kind, why(*because)));
        }
        let outage = |outage: &OutageRow| {
            let until = outage.ended_at.unwrap_or(asked.until).min(period.until);
            stretch(
                outage.started_at.max(period.from),
                until,
                if outage.dropped > 0 { "off" } else { "impaired" },
                &outage.reason,
            )
        };
        let outages: Vec<Stretch> = self.report.outages.iter().map(outage).collect();
        let mut rows = vec![("on".to_owned(), on)];
        if !outages.is_empty() {
            rows.push(("outages".to_owned(), outages));
        }
        let pieces = &self.report.pieces;
        let every = pieces.len().div_ceil(MARKS_MAX).max(1);
        let marks = pieces.iter().step_by(every).map(|piece| (at(piece.span.from), short(&piece.name)));
        let meanings = [
            ("on", "recorded"),
            ("off", "no recorder ran, or events were lost"),
            ("impaired", "an outage without loss"),
            ("before", "recording had not begun"),
            ("unknown", "still to come, or after this copy"),
        ];
        let is_shown = |kind: &str| rows.iter().flat_map(|(_, stretches)| stretches).any(|one| one.kind == kind);
        let legend = meanings.into_iter().filter(|(kind, _)| is_shown(kind)).collect();
        Timeline { title: "When it was recorded".into(), rows, legend, marks: marks.collect() }
    }

    pub(super) fn account(&self) -> Section {
        let accounted = &self.report.account;
        if accounted.hours == 0 && accounted.by_ledger.is_empty() {
            let words = "No run has an account of this time: none ran, or they were of a release that kept none.";
            let blocks = vec![Block::Words(words.into()), Block::Words(self.held_against_rows())];
            return Section { id: "account", title: "What was seen", blocks };
        }
        let of = &accounted.account;
        let rows = [
            ("seen", of.seen, "events in answers of the nodes, each time one was delivered"),
            ("new", of.new, "stored"),
            ("duplicate", of.duplicate, "stored before: clients ask for the same again and again"),
            ("variant", of.variant, "stored beside another content of the same event"),
            ("finding", of.finding, "without a key: kept as findings"),
            ("suppressed", of.suppressed, "of chats that were erased or purged: not recorded again"),
            ("refused", of.refused, "could not be recorded, and were not given to clients"),
            ("dropped", of.dropped, "given to clients, and lost"),
            ("in flight", of.in_flight, "on the way to the archive at the end"),
        ];
        let rows = rows.map(|(fate, count, what)| vec![fate.to_owned(), grouped(as_i64(count)), what.to_owned()]);
        let mut blocks = vec![Block::Table(
            Table::new("What was seen, and what became of it", &["fate", "events>", "which are"]).with(rows),
        )];
        let sum = match of.balances() {
            true => "The account adds up: seen is the sum of the rows below it.".to_owned(),
            false => "What was on its way when the period began, or when a run was killed, is in the rows below and not in seen.".to_owned(),
        };
        blocks.push(Block::Words(format!("{sum} It is kept by each run, by whole hours of UTC.")));
        if of.delivered_early > 0 {
            blocks.push(Block::Words(format!(
                "{} had their clients before they were on disk.",
                many(as_i64(of.delivered_early), "event")
            )));
        }
        blocks.push(Block::Words(self.held_against_rows()));
        Section { id: "account", title: "What was seen", blocks }
    }

    /// The account says one thing, and the rows say it again.
    fn held_against_rows(&self) -> String {
        let accounted = &self.report.account;
        let (said, found) = (as_i64(accounted.account.new), accounted.recorded);
        let (chats, events) = accounted.removed_since;
        let mut words =
            format!("The archive holds {} that were recorded in the period, by their rows", many(found, "event"));
        if accounted.hours == 0 && accounted.by_ledger.is_empty() {
            return words + ".";
        }
        if said == found {
            return words + ": as many as the account has as new.";
        }
        words += &format!("; the account has {} as new. Between the two lie", grouped(said));
        let mut between = Vec::new();
        if chats > 0 {
            between.push(format!(
                "what was removed since ({} of {} last seen in the period)",
                many(events, "event"),
                many(chats, "chat")
            ));
        }
        if accounted.is_of_several {
            between.push("what two recorders saw, which each of them counts".into());
        }
        if !accounted.unknown.is_empty() {
            between.push("the runs without an account".into());
        }
        between
            .push("what came at the edges of the period, and in the last ten seconds of a run that was killed".into());
        format!("{words} {}.", between.join("; "))
    }

    pub(super) fn chats(&self) -> Section {
        let chats = &self.report.chats;
        let rows = [
            ("complete", chats.complete, "it ended, and everything up to its end was covered"),
            (
                "unfinished",
                chats.unfinished,
                "no end was seen, it went quiet, and nothing is missing up to its last event",
            ),
            ("open", chats.open, "going on as of now"),
            ("incomplete", chats.incomplete, "over, and positions of it were not covered; or nothing of it was"),
        ];
        let rows = rows.map(|(status, count, what)| vec![status.to_owned(), grouped(count), what.to_owned()]);
        let caption =
            format!("Seen in the period: {}, of which {} began in it", many(chats.seen, "chat"), grouped(chats.begun));
        let mut blocks = vec![Block::Table(Table::new(caption, &["status", "chats>", "which means"]).with(rows))];
        let names: Vec<String> = self.report.pieces.iter().map(|piece| short(&piece.name)).collect();
        let bars = |title: &str, values: Vec<i64>| {
            Block::Chart(Chart::Bars(Bars {
                title: title.into(),
                names: names.clone(),
                series: vec![(String::new(), values)],
            }))
        };
        blocks.push(bars("Chats that began", self.report.pieces.iter().map(|piece| piece.chats).collect()));
        blocks.push(bars("Events that were recorded", self.report.pieces.iter().map(|piece| piece.events).collect()));
        let recording = &self.report.recording;
        let began = recording.began_at().unwrap_or(recording.span.from);
        let row = |piece: &Piece| {
            let length = piece.span.until.min(recording.span.until) - piece.span.from.max(began);
            let on = if piece.span.until <= began {
                "not begun".into()
            } else if length <= 0 {
                String::new()
            } else {
                format!("{:.1} %", (piece.on_ms as f64 / length as f64 * 1_000.0).floor() / 10.0)
            };
            let errors: i64 = piece.errors.values().sum();
            vec![piece.name.clone(), grouped(piece.chats), grouped(piece.events), grouped(errors), on]
        };
        let names = ["from", "chats begun>", "events recorded>", "errors>", "recording on>"];
        let begun = self.report.pieces.iter().filter(|piece| piece.span.from < recording.span.until);
        blocks.push(Block::Table(Table::new("The same in numbers", &names).with(begun.map(row))));
        Section { id: "chats", title: "Chats", blocks }
    }

    pub(super) fn holes(&self) -> Section {
        let holes = &self.report.holes;
        if self.report.chats.seen == 0 {
            let words = "The archive has no chat of the period.";
            return Section { id: "missing", title: "What is missing", blocks: vec![Block::Words(words.into())] };
        }
        if holes.chats == 0 {
            let words = "No chat of the period that is in the archive has a hole: each position up to the last one that an answer named was covered by some answer. An index that is missing within is GMS hiding an event from this party.";
            return Section { id: "missing", title: "What is missing", blocks: vec![Block::Words(words.into())] };
        }
        let rows = holes.reasons.iter().map(|reason| vec![reason.what.clone(), grouped(reason.count)]);
        let caption = format!(
            "{} in {}, by the most certain reason of each",
            many(holes.holes as i64, "hole"),
            many(holes.chats as i64, "chat")
        );
        let mut blocks = vec![Block::Table(Table::new(caption, &["reason", "holes>"]).with(rows))];
        let row = |hole: &ToldHole| {
            let ground =
                if hole.from == hole.to { hole.from.to_string() } else { format!("{} to {}", hole.from, hole.to) };
            let reasons: Vec<String> = hole.reasons.iter().map(|reason| self.reason(reason)).collect();
            vec![
                hole.chat_id.clone(),
                hole.service.clone().unwrap_or_default(),
                self.clock.stretch(hole.first_seen_at, hole.last_seen_at),
                ground,
                reasons.join("; or "),
            ]
        };
        let table = Table::new("Each hole", &["chat", "service", "seen", "positions", "because"])
            .with(holes.told.iter().map(row));
        blocks.push(Block::Table(Table { left_out: left_out(holes.left_out as i64, "chat"), ..table }));
        if holes.left_out_holes > 0 {
            let more = many(holes.left_out_holes as i64, "hole");
            blocks.push(Block::Words(format!("Of chats with many holes the first ten are told: {more} more.")));
        }
        blocks.push(Block::Words("More of one chat, and all holes:".into()));
        if let Some(hole) = holes.told.first() {
            blocks.push(Block::Command(format!("gms-recorder transcript {} --errors", quoted(&hole.chat_id))));
        }
        blocks.push(Block::Command(format!("gms-recorder holes{} --limit 10000", self.times())));
        Section { id: "missing", title: "What is missing", blocks }
    }

    fn reason(&self, reason: &Reason) -> String {
        let time = |from: i64, to: Option<i64>| match to {
            Some(to) => self.clock.stretch(from, to),
            None => format!("since {}", self.clock.date_time(from)),
        };
        match reason {
            Reason::Outage { why, from, to } => format!("an outage that names the chat ({why}, {})", time(*from, *to)),
            Reason::Unreadable { kind, times } => format!("an answer that could not be read ({}, {})", finding(kind), counted(*times, "time")),
            Reason::Interruption { why, from, to } => format!("{why}, {}", time(*from, *to)),
            Reason::Errors { times } => format!("its client was given {}", counted(*times, "error")),
            Reason::BeforeFirstAnswer => "the first answer here begins behind it: the chat was going on already, or its client had that part on another way".into(),
            Reason::NeverAskedFor => "no outage, no restart, no error: no client asked for it on this way".into(),
        }
    }

    pub(super) fn errors(&self) -> Section {
        let errors = &self.report.errors;
        if errors.all == 0 {
            return Section {
                id: "errors",
                title: "Errors that clients were given",
                blocks: vec![Block::Words("None.".into())],
            };
        }
        let names: Vec<String> = self.report.pieces.iter().map(|piece| short(&piece.name)).collect();
        let of_class = |class: &Count| {
            let values = self.report.pieces.iter().map(|piece| piece.errors.get(&class.what).copied().unwrap_or(0));
            (class.what.clone(), values.collect())
        };
        let series = errors.by_class.iter().map(of_class).collect();
        let mut blocks = vec![
            Block::Chart(Chart::Bars(Bars { title: "Errors by class".into(), names, series })),
            counts(&format!("{}, by class", many(errors.all, "error")), "class", "errors>", &errors.by_class),
        ];
        let rows = errors.by_code.iter().map(|error| {
            let code = match (error.code, error.http_status) {
                (Some(code), _) => code.to_string(),
                (None, Some(status)) => format!("HTTP {status}"),
                (None, None) => "none".into(),
            };
            let meaning = error.meaning.clone().unwrap_or_else(|| error.class.clone());
            vec![
                code,
                grouped(error.errors),
                grouped(error.chats),
                error.origin.clone(),
                meaning,
                error.remedy.clone().unwrap_or_default(),
            ]
        });
        blocks.push(Block::Table(
            Table::new("By code", &["code", "errors>", "chats>", "from", "means", "what to do"]).with(rows),
        ));
        let by_node: Vec<Count> = errors
            .by_node
            .iter()
            .map(|node| Count {
                what: if node.what.is_empty() {
                    "none: answered by the recorder, or left by the client".into()
                } else {
                    node.what.clone()
                },
                count: node.count,
            })
            .collect();
        blocks.push(counts("By node", "node", "errors>", &by_node));
        blocks.extend(self.chats_told("Chats with most errors", "errors>", &errors.chats));
        blocks.push(Block::Command(format!("gms-recorder errors{} --code CODE", self.times())));
        Section { id: "errors", title: "Errors that clients were given", blocks }
    }

    fn chats_told(&self, caption: &str, count: &'static str, chats: &Told) -> Vec<Block> {
        if chats.told.is_empty() {
            return Vec::new();
        }
        let rows = chats.told.iter().map(|chat| {
            let seen = chat.first_seen_at.map_or_else(|| "not in the archive".into(), |at| self.clock.date_time(at));
            vec![chat.chat_id.clone(), chat.service.clone().unwrap_or_default(), seen, grouped(chat.count)]
        });
        let table = Table::new(caption, &["chat", "service", "first seen", count]).with(rows);
        vec![Block::Table(Table { left_out: left_out(chats.all - chats.told.len() as i64, "chat"), ..table })]
    }

    pub(super) fn oddities(&self) -> Section {
        let mut blocks = Vec::new();
        if self.has_nothing() {
            blocks.push(Block::Words("Nothing was recorded in the period.".into()));
            return Section { id: "oddities", title: "What could not be read, or changed", blocks };
        }
        if self.report.findings.is_empty() {
            blocks.push(Block::Words("Everything that was seen could be read.".into()));
        } else {
            let rows = self
                .report
                .findings
                .iter()
                .map(|kind| vec![kind.what.clone(), grouped(kind.count), finding(&kind.what).into()]);
            blocks.push(Block::Table(
                Table::new("Findings that were first made in the period", &["kind", "findings>", "which are"])
                    .with(rows),
            ));
            blocks.push(Block::Command("gms-recorder sql 'SELECT * FROM findings ORDER BY id DESC LIMIT 20'".into()));
        }
        if self.report.variants.told.is_empty() {
            blocks.push(Block::Words("No event was delivered with other content than before.".into()));
        } else {
            blocks.extend(self.chats_told(
                "Chats with events that were delivered with other content than before: both are kept",
                "events>",
                &self.report.variants,
            ));
            blocks.push(Block::Command("gms-recorder transcript CHAT_ID --variants".into()));
        }
        Section { id: "oddities", title: "What could not be read, or changed", blocks }
    }

    pub(super) fn custody(&self) -> Section {
        let mut blocks = Vec::new();
        let is_all_there = self.report.removed.is_empty() && self.report.account.removed_since == (0, 0);
        match (self.report.maskings.is_empty(), is_all_there) {
            (true, true) => blocks.push(Block::Words("Nothing was masked.".into())),
            (true, false) => {
                let words = "What is left shows nothing that was masked before it was recorded; what was removed took with it what it had of that.";
                blocks.push(Block::Words(words.into()));
            }
            (false, _) => {
                blocks.push(counts("Masked before it was recorded", "rule", "places>", &self.report.maskings))
            }
        }
        match self.report.removed.is_empty() {
            true => blocks.push(Block::Words("Nothing was erased, purged or masked later.".into())),
            false => {
                let rows = self.report.removed.iter().map(|removed| {
                    let counts = [removed.acts, removed.chats, removed.events, removed.rows].map(grouped);
                    std::iter::once(removed.how.clone()).chain(counts).collect()
                });
                blocks.push(Block::Table(
                    Table::new("Removed, or masked later", &["how", "acts>", "chats>", "events>", "rows>"]).with(rows),
                ));
            }
        }
        let holds = &self.report.holds;
        blocks.push(Block::Facts(vec![
            fact(
                "Holds",
                format!(
                    "{} in force at the end of the period; {} set in it, {} released{}",
                    holds.in_force,
                    holds.set,
                    holds.released,
                    self.holds_removed()
                ),
            ),
            fact("Waiting", format!("{} that a hold is in the way of now", many(holds.waiting_erasures, "erasure"))),
        ]));
        if !self.report.files_transferred.is_empty() {
            blocks.push(counts(
                "Files that went through (their hashes are kept, not they)",
                "direction, outcome",
                "files>",
                &self.report.files_transferred,
            ));
        }
        match self.report.acts.is_empty() {
            true => blocks.push(Block::Words("Nobody read content through this program, nor changed anything.".into())),
            false => {
                blocks.push(counts(
                    "What people did through this program, reads of content among it",
                    "act",
                    "times>",
                    &self.report.acts,
                ));
                blocks.push(Block::Command(format!("gms-recorder access{}", self.times())));
            }
        }
        Section { id: "custody", title: CUSTODY, blocks }
    }

    /// Holds of the period's acts that the archive no longer has.
    fn holds_removed(&self) -> String {
        let acts = |kind: &str| self.report.acts.iter().find(|act| act.what == kind).map_or(0, |act| act.count);
        let removed = acts("hold") - self.report.holds.set;
        if removed <= 0 {
            return String::new();
        }
        let was = if removed == 1 { "was" } else { "were" };
        format!(
            "; {} more {was} set in it and not counted: removed since, with a customer who was erased",
            grouped(removed)
        )
    }

    pub(super) fn proof(&self) -> Section {
        let proof = &self.report.proof;
        let mut facts = vec![fact("Signed in it", many(proof.checkpoints, "checkpoint"))];
        let told = |checkpoint: &Checkpoint| {
            let signed = if checkpoint.is_signed { "" } else { "; NO KEY OF THE ARCHIVE HAS SIGNED IT" };
            format!(
                "{} of {}, over {}, root {}{signed}",
                checkpoint.number,
                self.clock.date_time(checkpoint.at),
                counted(checkpoint.size, "leaf").replace("leafs", "leaves"),
                checkpoint.root
            )
        };
        if let Some(checkpoint) = &proof.covers_period {
            facts.push(fact("Covers it", told(checkpoint)));
        }
        if let Some(checkpoint) = &proof.last {
            facts.push(fact("Last of all", told(checkpoint)));
        }
        facts.push(fact("Public key", proof.public_key.clone().unwrap_or_else(|| "none".into())));
        let mut blocks = vec![Block::Facts(facts)];
        if !proof.sealed_later.is_empty() {
            let runs = proof.sealed_later.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            blocks.push(Block::Words(format!("Rows of runs {runs} were sealed later than they were written, or are not sealed: before that nothing vouches for them.")));
        }
        blocks.extend(self.anchors());
        blocks.extend(self.verified());
        Section { id: "proof", title: "How strong the proof is", blocks }
    }

    fn anchors(&self) -> Vec<Block> {
        let anchors = &self.report.proof.anchors;
        if anchors.is_empty() {
            let words = "The configuration that this report was made with names no anchor. Without one, whoever can write the file can take the last checkpoints away and change what they covered; only an anchor out of their reach helps against it.";
            return vec![Block::Words(words.into())];
        }
        let row = |anchor: &Anchor| {
            let has = match &anchor.last {
                Some(last) => format!("checkpoint {} of {}", last.number, self.clock.date_time(last.at)),
                None => "not to be read from here".into(),
            };
            vec![anchor.name.clone(), anchor.kind.clone(), anchor.place.clone(), has]
        };
        let caption = "Anchors, by the configuration that this report was made with";
        let table = Table::new(caption, &["anchor", "kind", "place", "has"]).with(anchors.iter().map(row));
        let words =
            "What an anchor has taken it has itself. Hold all of it against the archive with `verify --anchor`.";
        vec![Block::Table(table), Block::Words(words.into())]
    }

    fn verified(&self) -> Vec<Block> {
        let Some(verified) = &self.report.proof.verified else {
            let words = "Whether all of it is as it was sealed says this, with the public key and what an anchor has:";
            let command = "gms-recorder verify --anchor PATH --key gms-recorder.vkey".into();
            return vec![Block::Words(words.into()), Block::Command(command)];
        };
        let mut facts = vec![
            fact(
                "Verified",
                format!(
                    "{} as they were sealed, {}",
                    many(as_i64(verified.rows), "row"),
                    many(as_i64(verified.faults), "fault")
                ),
            ),
            fact("Checkpoints", format!("{} of the archive fit", grouped(as_i64(verified.checkpoints)))),
        ];
        for anchor in &verified.anchors {
            facts.push(fact("Held against", anchor.display().to_string()));
        }
        if !verified.anchors.is_empty() {
            facts.push(fact("Anchored", format!("{} fit", many(as_i64(verified.anchored), "checkpoint"))));
        }
        let mut blocks = vec![Block::Facts(facts)];
        let told = verified.first_faults.iter().map(|fault| format!("Fault: {fault}"));
        blocks.extend(told.chain(verified.warnings.iter().cloned()).map(Block::Words));
        blocks
    }

    pub(super) fn limits(&self) -> Section {
        let words = [
            "Complete always means: as delivered to the clients behind this recorder. Not recorded are text that a client sent and no answer returned, Chat V1, push notifications, and chats that went another way to GMS.",
            "When a run that did not stop in order was last there is known by what it wrote and signed last: to the minute for this archive's own runs, to the last event for those of others that were brought in.",
            "Chats are counted by the status that they have as of the time of asking; the rest of a period that is over stays as it is, but for what is removed or brought in by a merge later.",
        ];
        Section {
            id: "limits",
            title: "What this does not say",
            blocks: words.map(|words| Block::Words(words.into())).into(),
        }
    }
}

fn why(why: Why) -> &'static str {
    match why {
        Why::NotBegun => "recording had not begun",
        Why::Stopped => "the recorder was stopped",
        Why::Died => "the recorder died, or its machine did",
        Why::PutBack => "the archive was put back from a backup: what was recorded after that backup is not in it",
        Why::LastHeard => {
            "of that recorder nothing later is in this archive: it died, or this is a copy, or what was merged, from then"
        }
    }
}

/// What a kind of finding is, for people.
fn finding(kind: &str) -> &'static str {
    match kind {
        "event_without_key" => "events without a valid index",
        "events_without_chat" => "events in answers that name no chat",
        "not_an_event" => "elements of messages that are no object",
        "not_json" => "bodies that are no JSON",
        "unknown_shape" => "JSON of a shape that no answer has",
        "truncated" => "bodies that broke off",
        "undecodable" => "bodies whose encoding could not be undone",
        "too_large" => "bodies over body_max, or while inspected_bytes_max was used up: delivered unread",
        "invalid_utf8" => "bytes that are no UTF-8, read with replacement characters",
        "spool_damaged" => "stretches of the spool that could not be read",
        "unstorable" => "rows that the database refused",
        "altered" => "what somebody altered in the archive by hand",
        "chat_v1" => "Chat V1, which is not recorded",
        _ => "of a kind that this release does not know",
    }
}

fn counts(caption: &str, what: &'static str, count: &'static str, counts: &[Count]) -> Block {
    let rows = counts.iter().map(|one| vec![one.what.clone(), grouped(one.count)]);
    Block::Table(Table::new(caption, &[what, count]).with(rows))
}

fn left_out(count: i64, noun: &str) -> Option<String> {
    (count > 0).then(|| format!("and {} more: `--limit` shows more of them", many(count, noun)))
}

/// `2026-03-01` as `03-01`, `03-01 14:00` as `14:00`.
fn short(name: &str) -> String {
    match (name.split_once(' '), name.len()) {
        (Some((_, hour)), _) => hour.to_owned(),
        (None, 10) => name[5..].to_owned(),
        _ => name.to_owned(),
    }
}

/// As a shell takes it for one word.
fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-.@".contains(c);
    if text.chars().all(is_plain) && !text.starts_with('-') {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

fn cut<T>(rows: &[T]) -> (&[T], Option<String>) {
    let left_out = rows.len().saturating_sub(ROWS_MAX);
    (
        &rows[..rows.len() - left_out],
        (left_out > 0).then(|| format!("and {left_out} more: `--format json` has all of them")),
    )
}
