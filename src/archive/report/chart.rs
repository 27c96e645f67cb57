//! Charts as SVG (SVG 1.1), drawn here: to be embedded in a page that runs nothing. Colours are classes of the page's style.

use std::fmt::Write as _;

use crate::archive::export::words::legible_line;
use crate::archive::html::escaped;

/// A picture.
#[derive(Debug, Clone, PartialEq)]
pub enum Chart {
    /// Bars side by side, each a stack.
    Bars(Bars),
    /// What was when.
    Timeline(Timeline),
}

/// A stack for each name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bars {
    /// What is counted.
    pub title: String,
    /// Below the bars.
    pub names: Vec<String>,
    /// From the bottom up: a name, and a value for each bar.
    pub series: Vec<(String, Vec<i64>)>,
}

/// A line from the beginning to the end of a time.
#[derive(Debug, Clone, PartialEq)]
pub struct Timeline {
    /// What it shows.
    pub title: String,
    /// Rows: a name, and its stretches.
    pub rows: Vec<(String, Vec<Stretch>)>,
    /// What the kinds of stretches mean: a class of the style, and words.
    pub legend: Vec<(&'static str, &'static str)>,
    /// Below it: where (0 to 1), and what.
    pub marks: Vec<(f64, String)>,
}

/// A part of a line.
#[derive(Debug, Clone, PartialEq)]
pub struct Stretch {
    /// Where it begins, 0 to 1.
    pub from: f64,
    /// Where it ends.
    pub until: f64,
    /// What it is: a class of the style.
    pub kind: &'static str,
    /// In words.
    pub what: String,
}

/// Of the drawing; a page scales it.
const WIDTH: f64 = 760.0;
const LEFT: f64 = 56.0;
const PLOT: f64 = WIDTH - LEFT - 8.0;
const BARS_HEIGHT: f64 = 150.0;
const TOP: f64 = 10.0;
const ROW: f64 = 26.0;
/// Names below bars are as wide as this, at least.
const NAME_WIDTH: f64 = 44.0;
/// A stretch too short to be seen is as wide as this.
const STRETCH_MIN: f64 = 1.5;
/// Classes `s0` … of the style; more series share the last.
pub const SERIES: usize = 8;

impl Chart {
    /// What it is of.
    pub fn title(&self) -> &str {
        match self {
            Self::Bars(bars) => &bars.title,
            Self::Timeline(timeline) => &timeline.title,
        }
    }

    /// The picture.
    pub fn svg(&self) -> String {
        match self {
            Self::Bars(bars) => bars.svg(),
            Self::Timeline(timeline) => timeline.svg(),
        }
    }
}

impl Bars {
    fn svg(&self) -> String {
        let sums: Vec<i64> =
            (0..self.names.len()).map(|at| self.series.iter().map(|(_, values)| values[at]).sum()).collect();
        let max = sums.iter().copied().max().unwrap_or(0);
        let step = tick(max);
        let ticks = (max / step + i64::from(max % step > 0)).max(1);
        let (legend, top) = self.legend();
        let scale = BARS_HEIGHT / (ticks as f64 * step as f64);
        let bottom = top + BARS_HEIGHT;
        let mut svg = begin(&self.title, bottom + 24.0);
        svg.push_str(&legend);
        for number in 0..=ticks {
            let value = step.saturating_mul(number);
            let y = bottom - value as f64 * scale;
            let _ = write!(
                svg,
                r#"<line class="grid" x1="{LEFT}" x2="{:.0}" y1="{y:.1}" y2="{y:.1}"/><text class="tick" x="{:.0}" y="{:.1}" text-anchor="end">{}</text>"#,
                LEFT + PLOT,
                LEFT - 6.0,
                y + 4.0,
                grouped(value)
            );
        }
        let slot = PLOT / self.names.len().max(1) as f64;
        let every = (NAME_WIDTH / slot).ceil().max(1.0) as usize;
        for (at, name) in self.names.iter().enumerate() {
            let x = LEFT + slot * at as f64;
            let mut y = bottom;
            for (number, (of, values)) in self.series.iter().enumerate().filter(|(_, (_, values))| values[at] > 0) {
                let height = values[at] as f64 * scale;
                y -= height;
                let what = if of.is_empty() { String::new() } else { format!("{of}: ") };
                let title = escaped(&legible_line(&format!("{name}: {what}{}", grouped(values[at]))));
                let _ = write!(
                    svg,
                    r#"<rect class="s{}" x="{:.1}" y="{y:.1}" width="{:.1}" height="{height:.1}"><title>{title}</title></rect>"#,
                    number.min(SERIES - 1),
                    x + slot * 0.1,
                    slot * 0.8
                );
            }
            if at % every == 0 {
                let _ = write!(
                    svg,
                    r#"<text class="tick" x="{:.1}" y="{:.1}" text-anchor="middle">{}</text>"#,
                    x + slot / 2.0,
                    bottom + 16.0,
                    escaped(&legible_line(name))
                );
            }
        }
        svg + "</svg>"
    }

    fn legend(&self) -> (String, f64) {
        let entry = |(number, (name, _)): (usize, &(String, _))| (format!("s{}", number.min(SERIES - 1)), name.clone());
        let entries: Vec<(String, String)> = self.series.iter().enumerate().map(entry).collect();
        if entries.len() < 2 { (String::new(), TOP) } else { legend(&entries) }
    }
}

/// What colours mean (a class of the style, and words), and where the plot begins below it.
fn legend(entries: &[(impl AsRef<str>, impl AsRef<str>)]) -> (String, f64) {
    let mut svg = String::new();
    let (mut x, mut y) = (LEFT, TOP);
    for (class, name) in entries {
        let name = name.as_ref();
        let width = 24.0 + 6.6 * name.chars().count() as f64;
        if x + width > WIDTH && x > LEFT {
            (x, y) = (LEFT, y + 18.0);
        }
        let _ = write!(
            svg,
            r#"<rect class="{}" x="{x:.0}" y="{:.0}" width="10" height="10"/><text class="tick" x="{:.0}" y="{:.0}">{}</text>"#,
            class.as_ref(),
            y - 3.0,
            x + 15.0,
            y + 6.0,
            escaped(&legible_line(name))
        );
        x += width;
    }
    (svg, y + 22.0)
}

impl Timeline {
    fn svg(&self) -> String {
        let (legend, top) = legend(&self.legend);
        let bottom = top + ROW * self.rows.len() as f64;
        let mut svg = begin(&self.title, bottom + 24.0);
        svg.push_str(&legend);
        for (number, (name, stretches)) in self.rows.iter().enumerate() {
            let y = top + ROW * number as f64;
            let _ = write!(
                svg,
                r#"<text class="tick" x="{:.0}" y="{:.1}" text-anchor="end">{}</text>"#,
                LEFT - 6.0,
                y + 13.0,
                escaped(&legible_line(name))
            );
            for Stretch { from, until, kind, what } in stretches {
                let x = LEFT + PLOT * from.clamp(0.0, 1.0);
                let width = (PLOT * (until.clamp(0.0, 1.0) - from.clamp(0.0, 1.0))).max(STRETCH_MIN);
                let _ = write!(
                    svg,
                    r#"<rect class="{kind}" x="{x:.1}" y="{y:.1}" width="{width:.1}" height="18"><title>{}</title></rect>"#,
                    escaped(&legible_line(what))
                );
            }
        }
        for (at, what) in &self.marks {
            let x = LEFT + PLOT * at;
            let _ = write!(
                svg,
                r#"<line class="grid" x1="{x:.1}" x2="{x:.1}" y1="{:.1}" y2="{:.1}"/><text class="tick" x="{x:.1}" y="{:.1}" text-anchor="middle">{}</text>"#,
                bottom - 4.0,
                bottom + 3.0,
                bottom + 16.0,
                escaped(&legible_line(what))
            );
        }
        svg + "</svg>"
    }
}

fn begin(title: &str, height: f64) -> String {
    let title = escaped(&legible_line(title));
    format!(r#"<svg viewBox="0 0 {WIDTH:.0} {height:.0}" role="img" aria-label="{title}"><title>{title}</title>"#)
}

/// Lines of a scale above its bottom, at most.
const TICKS: i64 = 5;

/// From one of them to the next: 1, 2 or 5 and noughts.
fn tick(max: i64) -> i64 {
    let mut power = 1_i64;
    loop {
        for factor in [1, 2, 5] {
            let step = power.saturating_mul(factor);
            if max <= step.saturating_mul(TICKS) {
                return step;
            }
        }
        power = power.saturating_mul(10);
    }
}

/// `1 234 567`, with narrow spaces that do not break.
pub fn grouped(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut out = String::from(if number < 0 { "-" } else { "" });
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_are_of_round_numbers() {
        for (max, wanted) in [(0, 1), (1, 1), (5, 1), (6, 2), (11, 5), (26, 10), (1_234, 500), (i64::MAX, 0)] {
            let step = tick(max);
            assert!(wanted == 0 || step == wanted, "{max}: {step}");
            assert!(step >= max / 6, "{max}: {step}");
        }
        for (number, wanted) in
            [(0, "0"), (999, "999"), (1_000, "1\u{202f}000"), (-1_234_567, "-1\u{202f}234\u{202f}567")]
        {
            assert_eq!(grouped(number), wanted);
        }
    }

    #[test]
    fn a_timeline_says_what_its_colours_mean() {
        let timeline = Timeline {
            title: "when".into(),
            rows: vec![("on".into(), vec![Stretch { from: 0.0, until: 0.5, kind: "off", what: "died".into() }])],
            legend: vec![("off", "not recorded"), ("unknown", "still to come")],
            marks: Vec::new(),
        };
        let svg = Chart::Timeline(timeline).svg();
        assert!(svg.contains(">not recorded</text>") && svg.contains(">still to come</text>"), "{svg}");
        assert_eq!((svg.matches("class=\"off\"").count(), svg.matches("class=\"unknown\"").count()), (2, 1));
    }

    #[test]
    fn bars_are_as_high_as_their_values_and_say_them() {
        let bars = Bars {
            title: "<chats>".into(),
            names: vec!["a".into(), "b".into()],
            series: vec![("x".into(), vec![5, 0]), ("y&".into(), vec![5, 10])],
        };
        let svg = Chart::Bars(bars).svg();
        assert!(svg.contains("<title>&lt;chats&gt;</title>") && svg.contains("<title>b: y&amp;: 10</title>"), "{svg}");
        let heights: Vec<&str> =
            svg.split("height=\"").skip(1).filter_map(|rest| rest.split('"').next()).filter(|h| *h != "10").collect();
        assert_eq!(heights, ["75.0", "75.0", "150.0"]);
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
        let none = Bars { title: "none".into(), names: Vec::new(), series: Vec::new() };
        assert!(!Chart::Bars(none).svg().contains("NaN"));
    }
}
