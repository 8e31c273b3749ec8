// What FiftyOne's own views cannot show: a plot that follows the player of a video and moves it, and a report.
(() => {
  const { React, recoil, __fop__: plugins, __fos__: state, __foo__: operators } = window;
  const h = React.createElement;
  const LEFT = 64, RIGHT = 12, TOP = 8, BOTTOM = 34, GAP = 14;

  function useSize() {
    const ref = React.useRef(null);
    const [size, setSize] = React.useState({ width: 0, height: 0 });
    React.useLayoutEffect(() => {
      const element = ref.current;
      const measure = () => setSize({ width: element.clientWidth, height: element.clientHeight });
      const observer = new ResizeObserver(measure);
      observer.observe(element);
      measure();
      return () => observer.disconnect();
    }, []);
    return [ref, size];
  }

  // the number of the frame that the player shows
  function useFrame(looker) {
    const [frame, setFrame] = React.useState(1);
    React.useEffect(() => {
      if (!looker) return undefined;
      let request = 0;
      const follow = () => {
        if (looker.frameNumber) setFrame(looker.frameNumber);
        request = requestAnimationFrame(follow);
      };
      follow();
      return () => cancelAnimationFrame(request);
    }, [looker]);
    return frame;
  }

  function ticks(low, high, count) {
    const rough = (high - low) / count || 1;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
    const found = [];
    for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-6; value += step) found.push(value);
    return [found, Math.max(0, -Math.floor(Math.log10(step)))];
  }

  function OverTime({ data }) {
    const [ref, { width, height }] = useSize();
    const looker = recoil.useRecoilValue(state.modalLooker);
    const frame = useFrame(looker);
    const { rate = 25, first = 1, step = 1, lines = [] } = data ?? {};
    const count = Math.max(...lines.map((line) => line.values.length), 2);
    const duration = (first - 1 + (count - 1) * step) / rate;
    const inner = width - LEFT - RIGHT, each = (height - TOP - BOTTOM + GAP) / (lines.length || 1) - GAP;
    const x = (seconds) => LEFT + (seconds / duration) * inner;
    const children = [];
    if (inner > 50 && each > 20) {
      const [times, digits] = ticks(0, duration, Math.max(2, inner / 90));
      for (const time of times) {
        children.push(
          h("line", { key: `g${time}`, x1: x(time), x2: x(time), y1: TOP, y2: height - BOTTOM, opacity: 0.15 }),
          h("text", { key: `t${time}`, x: x(time), y: height - BOTTOM + 15, textAnchor: "middle" }, time.toFixed(digits)),
        );
      }
      children.push(h("text", { key: "x", x: LEFT + inner / 2, y: height - 4, textAnchor: "middle" }, "seconds"));
      lines.forEach((line, k) => {
        const top = TOP + k * (each + GAP);
        const low = line.from ?? Math.min(...line.values), high = Math.max(...line.values, low + 1e-6);
        const y = (value) => top + each - ((value - low) / (high - low)) * each;
        const points = line.values.map((value, i) => `${x((first - 1 + i * step) / rate).toFixed(1)},${y(value).toFixed(1)}`);
        const [values, places] = ticks(low, high, Math.max(1, each / 40));
        for (const value of values) {
          children.push(h("text", { key: `v${k}${value}`, x: LEFT - 6, y: y(value) + 4, textAnchor: "end" }, value.toFixed(places)));
        }
        children.push(
          h("rect", { key: `b${k}`, x: LEFT, y: top, width: inner, height: each, fill: "none", opacity: 0.3 }),
          h("polyline", { key: `l${k}`, points: points.join(" "), fill: "none", stroke: line.color, strokeWidth: 1.5 }),
          h("text", { key: `n${k}`, x: LEFT + 6, y: top + 14 }, line.name),
        );
      });
      const now = x(Math.min((frame - 1) / rate, duration));
      children.push(h("line", { key: "now", "data-cy": "saliency-now", x1: now, x2: now, y1: TOP, y2: height - BOTTOM, strokeWidth: 2 }));
    }
    const seek = (event) => {
      const place = event.clientX - ref.current.getBoundingClientRect().left;
      const seconds = Math.min(Math.max((place - LEFT) / inner, 0), 1) * duration;
      looker?.pause?.();
      looker?.seekToFrame?.(Math.round(seconds * rate) + 1);
    };
    const style = { width: "100%", height: "70vh", minHeight: 240, cursor: "crosshair", color: "var(--fo-palette-text-primary, currentColor)" };
    return h(
      "div",
      { ref, style, onClick: seek, "data-cy": "saliency-over-time" },
      h("svg", { width, height, stroke: "currentColor", role: "img", "aria-label": "Saliency over time" },
        h("style", null, "text { fill: currentColor; stroke: none; font: 11px sans-serif }"), children),
    );
  }

  function Videos({ data }) {
    const { execute } = operators.useOperatorExecutor("open_sample");
    const button = { width: 132, padding: 0, border: 0, background: "none", color: "var(--fo-palette-text-primary, currentColor)", font: "12px sans-serif", textAlign: "left", cursor: "pointer" };
    const line = { display: "block", overflow: "hidden", textOverflow: "ellipsis", whiteSpace: "nowrap" };
    const videos = (data ?? []).map(({ id, name, value, picture }) =>
      h("button", { key: id, type: "button", style: button, title: name, "data-cy": "saliency-video", onClick: () => execute({ id }) },
        h("img", { src: state.getSampleSrc(picture), alt: "", loading: "lazy", style: { display: "block", width: 132, height: 74, objectFit: "cover", borderRadius: 4, background: "#8884" } }),
        h("span", { style: line }, h("b", null, value), " ", name)),
    );
    return h("div", { style: { display: "flex", flexWrap: "wrap", gap: 10 } }, videos);
  }

  function Report({ data }) {
    if (!data?.file) return null;
    const address = state.getSampleSrc(data.file);
    const link = { href: address, target: "_blank", rel: "noopener", style: { color: "var(--fo-palette-text-primary, currentColor)" } };
    return h(
      "div",
      { style: { display: "flex", flexDirection: "column", gap: 6, height: "82vh", padding: 8, boxSizing: "border-box" } },
      h("a", link, "Open in a tab of its own"),
      h("iframe", { src: address, title: "Saliency report", "data-cy": "saliency-report", sandbox: "allow-popups", style: { flex: 1, width: "100%", border: 0, background: "#fff" } }),
    );
  }

  for (const [name, label, component] of [
    ["TinyHDSaliencyOverTime", "Saliency over time", OverTime],
    ["TinyHDVideos", "Videos", Videos],
    ["TinyHDReport", "Saliency report", Report],
  ])
    plugins.registerComponent({ name, label, component, type: plugins.PluginComponentType.Component, activator: () => true });
})();
