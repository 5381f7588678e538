//! Curves of what was measured, as SVG.

use std::fmt::Write as _;

/// A named curve.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Curve {
    /// What it is.
    pub(super) name: String,
    /// Its points, with x growing.
    pub(super) points: Vec<(f64, f64)>,
    /// Whether it is a bound, not a measurement.
    pub(super) bound: bool,
}

/// A picture of some curves. Both axes begin at zero, unless the greatest time is more than ten times
/// the least: then the times stand on a logarithmic axis.
#[derive(Debug, Clone)]
pub(super) struct Plot {
    /// What it shows.
    pub(super) title: String,
    /// What goes to the right.
    pub(super) x: String,
    /// What goes up.
    pub(super) y: String,
    /// The curves.
    pub(super) curves: Vec<Curve>,
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 140.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
/// Distinct for most eyes (Okabe and Ito), ours first.
const COLOURS: [&str; 7] =
    ["#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"];

impl Plot {
    /// The picture.
    #[must_use]
    pub(super) fn svg(&self) -> String {
        let all = || self.curves.iter().flat_map(|c| c.points.iter().copied());
        let right = all().map(|(x, _)| x).fold(0.0, f64::max);
        let most = all().map(|(_, y)| y).fold(0.0, f64::max);
        let least = all().map(|(_, y)| y).fold(f64::INFINITY, f64::min);
        let xs = Axis::linear(right, LEFT, WIDTH - RIGHT);
        let ys = if least > 0.0 && most > 10.0 * least {
            Axis::logarithmic(least, most, HEIGHT - BOTTOM, TOP)
        } else {
            Axis::linear(most, HEIGHT - BOTTOM, TOP)
        };
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
             viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"13\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        );
        text(&mut svg, (WIDTH / 2.0, 22.0), "middle", &self.title);
        text(&mut svg, ((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 12.0), "middle", &self.x);
        text(&mut svg, (8.0, TOP - 12.0), "start", &self.y);
        for tick in xs.ticks() {
            let x = xs.place(tick);
            line(&mut svg, (x, TOP), (x, HEIGHT - BOTTOM), "#ddd");
            text(&mut svg, (x, HEIGHT - BOTTOM + 18.0), "middle", &number(tick));
        }
        for tick in ys.ticks() {
            let y = ys.place(tick);
            line(&mut svg, (LEFT, y), (WIDTH - RIGHT, y), "#ddd");
            text(&mut svg, (LEFT - 8.0, y + 4.0), "end", &number(tick));
        }
        let mut colours = COLOURS.iter().cycle();
        for (index, curve) in self.curves.iter().enumerate() {
            let colour =
                if curve.bound { "#555" } else { colours.next().copied().unwrap_or("#000") };
            let dash = if curve.bound { " stroke-dasharray=\"6 4\"" } else { "" };
            let points: Vec<(f64, f64)> =
                curve.points.iter().map(|(x, y)| (xs.place(*x), ys.place(*y))).collect();
            let list: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            let list = list.join(" ");
            writeln!(svg, "<polyline points=\"{list}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dash}/>").ok();
            for (x, y) in points.iter().filter(|_| !curve.bound) {
                writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{colour}\"/>")
                    .ok();
            }
            let y = TOP + 12.0 + 20.0 * index as f64;
            let x = WIDTH - RIGHT + 14.0;
            writeln!(
                svg,
                "<path d=\"M{x} {y} h24\" stroke=\"{colour}\" stroke-width=\"2\"{dash}/>"
            )
            .ok();
            text(&mut svg, (x + 30.0, y + 4.0), "start", &curve.name);
        }
        svg.push_str("</svg>\n");
        svg
    }
}

fn line(svg: &mut String, from: (f64, f64), to: (f64, f64), colour: &str) {
    let ((a, b), (c, d)) = (from, to);
    writeln!(svg, "<path d=\"M{a:.1} {b:.1} L{c:.1} {d:.1}\" stroke=\"{colour}\"/>").ok();
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>").ok();
}

fn number(number: f64) -> String {
    // Ticks are 1, 2 or 5 times a power of ten.
    if number >= 1.0 || number == 0.0 { format!("{number:.0}") } else { format!("{number}") }
}

/// Where a number is on the picture.
struct Axis {
    logarithmic: bool,
    from: f64,
    to: f64,
    start: f64,
    end: f64,
}

impl Axis {
    fn linear(most: f64, start: f64, end: f64) -> Self {
        let most = if most > 0.0 { most } else { 1.0 };
        Self { logarithmic: false, from: 0.0, to: most * 1.05, start, end }
    }

    fn logarithmic(least: f64, most: f64, start: f64, end: f64) -> Self {
        Self { logarithmic: true, from: least / 1.2, to: most * 1.2, start, end }
    }

    fn place(&self, number: f64) -> f64 {
        let part = if self.logarithmic {
            (number / self.from).ln() / (self.to / self.from).ln()
        } else {
            number / self.to
        };
        self.start + part * (self.end - self.start)
    }

    fn ticks(&self) -> Vec<f64> {
        let round = |power: i32| [1.0, 2.0, 5.0].map(|n| n * 10f64.powi(power));
        let rounds = (-6..12).flat_map(round);
        if self.logarithmic {
            return rounds.filter(|t| (self.from..=self.to).contains(t)).collect();
        }
        // The least round step of which at most eight fit.
        let step = rounds.clone().find(|step| self.to / step <= 8.0).unwrap_or(self.to);
        (0..=8).map(|i| f64::from(i) * step).take_while(|t| *t <= self.to).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(points: &[(f64, f64)]) -> Plot {
        let curve =
            |name: &str, bound| Curve { name: name.to_owned(), points: points.to_vec(), bound };
        Plot {
            title: "a < b".to_owned(),
            x: "nodes".to_owned(),
            y: "s".to_owned(),
            curves: vec![curve("p2pinst", false), curve("T*", true)],
        }
    }

    #[test]
    fn a_plot_has_its_curves_and_is_well_formed() {
        let svg = plot(&[(1.0, 25.0), (60.0, 30.0)]).svg();
        assert_eq!(svg.matches("<polyline").count(), 2);
        assert_eq!(svg.matches("<circle").count(), 2);
        assert!(svg.contains("a &lt; b") && svg.contains(">p2pinst<"), "{svg}");
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        let nothing = plot(&[]).svg();
        assert!(!nothing.contains("NaN") && !nothing.contains("inf"), "{nothing}");
    }

    #[test]
    fn ticks_are_round_and_far_apart_times_are_logarithmic() {
        assert_eq!(Axis::linear(60.0, 0.0, 1.0).ticks(), [0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0]);
        let axis = Axis::logarithmic(6.0, 40.0, 100.0, 0.0);
        assert_eq!(axis.ticks(), [5.0, 10.0, 20.0]);
        assert!(axis.place(10.0) < axis.place(6.0));
        let svg = plot(&[(1.0, 5.0), (2.0, 500.0)]).svg();
        assert!(svg.contains(">200<") && svg.contains(">5<"), "{svg}");
    }
}
