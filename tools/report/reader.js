// The reading view: held-out text, every character coloured by the expert that reads it, a layer at a time.
//
// The text is there as plain text from the start, in chunks of about a thousand characters. Only a chunk near the window
// has an element for each character; it becomes plain text again when it leaves, at the same size, since the elements
// are inline. So a text of any length has a bounded number of elements, can be searched, and does not jump.
'use strict';
(() => {
  const experts = ['full', 'linear', 'local'];
  const joined = '\uE000';  // stands for a byte that belongs to the character before it
  const longest = 1200;     // characters in a chunk

  const bytes = base64 => Uint8Array.from(atob(base64), c => c.charCodeAt(0));
  const words = base64 => new Uint16Array(bytes(base64).buffer);
  const signed = base64 => new Int16Array(bytes(base64).buffer);
  const element = (name, parent, content) => {
    const made = parent.appendChild(document.createElement(name));
    if (content !== undefined) made.textContent = content;
    return made;
  };

  // report_text.cpp says how the numbers are packed.
  function unpack(json) {
    const data = JSON.parse(json);
    const layers = data.layers.map(layer => {
      const chosen = bytes(layer.chosen), full = words(layer.full), linear = words(layer.linear);
      const u = layer.u && signed(layer.u), mi = layer.mi && words(layer.mi);
      const weights = i => [full[i], linear[i], 65535 - full[i] - linear[i]].map(w => Math.max(0, w / 65535));
      return {chosen, weights, u: i => u && u[i] / 100, mi: i => mi && mi[i] / 10000};
    });
    const nll = words(data.nll), need = data.need && bytes(data.need);
    return {
      text: data.text, size: data.text.length, starts: data.starts, continuous: data.continuous, layers, bytes: bytes(data.bytes),
      isStart: new Set(data.starts), nll: i => nll[i] === 65535 ? undefined : nll[i] / 1000,
      need: i => need ? data.needs[need[i]] : '',
    };
  }

  // Bounds of the chunks: at starts of windows for texts that have nothing to do with each other, else at line ends or
  // spaces; never within a character.
  function cut(data) {
    const bounds = [];
    const last = data.continuous ? [data.size] : [...data.starts.slice(1), data.size];
    let begin = 0;
    for (const end of last) {
      while (begin < end) {
        let to = Math.min(begin + longest, end);
        if (to < end) {
          const line = data.text.lastIndexOf('\n', to - 1), space = data.text.lastIndexOf(' ', to - 1);
          if (line >= begin + longest / 2) to = line + 1;
          else if (space >= begin + longest / 2) to = space + 1;
          while (to > begin + 1 && data.text[to] === joined) --to;
        }
        bounds.push([begin, to]);
        begin = to;
      }
    }
    return bounds;
  }

  function start(reader) {
    const data = unpack(reader.querySelector('script').textContent);
    const text = reader.querySelector('.text'), detail = reader.querySelector('.detail');
    let layer = data.layers.length - 1, now = -1;

    // A window's first byte has no context: where windows follow each other, a bar shows it.
    const bar = i => data.continuous && i > 0 && data.isStart.has(i) ? '\u2502' : '';
    const glyph = i => data.text[i] === '\n' ? '\u21b5\n' : data.text[i];
    const plain = (begin, end) => {
      let all = '';
      for (let i = begin; i < end; ++i) if (data.text[i] !== joined) all += bar(i) + glyph(i);
      return all;
    };
    const look = i => {
      const {chosen, weights} = data.layers[layer];
      if (chosen[i] >= experts.length) return '';
      // How sure the choice is: 0 where all weights are equal, 7 where one has nearly all.
      const sure = Math.min(7, Math.floor(8 * Math.max(0, (Math.max(...weights(i)) - 1 / 3) * 1.5)));
      return `${experts[chosen[i]]} sure-${sure}${data.need(i) ? ` need-${data.need(i)}` : ''}${i === now ? ' now' : ''}`;
    };

    const chunks = cut(data).map(([begin, end]) => ({begin, end, box: element('div', text), cells: null}));
    for (const chunk of chunks) {
      chunk.box.className = 'chunk';
      chunk.box.chunk = chunk;
      if (!data.continuous && data.isStart.has(chunk.begin)) chunk.box.dataset.name = `window ${data.starts.indexOf(chunk.begin) + 1}`;
      chunk.box.textContent = plain(chunk.begin, chunk.end);
    }
    const fill = chunk => {
      if (chunk.cells) return;
      chunk.cells = [];
      const cells = document.createDocumentFragment();
      for (let i = chunk.begin; i < chunk.end; ++i) {
        if (data.text[i] !== joined) {
          if (bar(i)) element('i', cells, bar(i));
          const cell = element('b', cells, glyph(i));
          cell.className = look(i);
          cell.index = i;
          chunk.cells.push(cell);
        } else {
          chunk.cells.push(chunk.cells[chunk.cells.length - 1]);
        }
      }
      chunk.box.replaceChildren(cells);
    };
    const empty = chunk => {
      if (!chunk.cells) return;
      chunk.cells = null;
      chunk.box.textContent = plain(chunk.begin, chunk.end);
    };
    const near = new IntersectionObserver(entries => {
      for (const {target, isIntersecting} of entries) (isIntersecting ? fill : empty)(target.chunk);
    }, {root: text, rootMargin: '400px 0px'});
    for (const chunk of chunks) near.observe(chunk.box);
    addEventListener('beforeprint', () => chunks.forEach(fill));

    const cellOf = i => {
      const chunk = chunks.find(c => i < c.end);
      fill(chunk);
      return chunk.cells[i - chunk.begin];
    };

    // What is known of a byte. The rows are made once.
    const facts = ['Choose a character: hover, tap, or focus the text and use the arrow keys.', '', ''].map(hint => element('p', detail, hint));
    const table = element('table', detail), head = table.createTHead().insertRow(), body = table.createTBody();
    for (const title of ['layer', ...experts, 'U', 'MI']) element('th', head, title).scope = 'col';
    const rows = data.layers.map((_, l) => {
      const row = body.insertRow(), cells = [element('td', row, l)];
      for (const name of experts) cells.push(Object.assign(element('td', row), {className: `weight ${name}`}));
      return {row, cells: [...cells, element('td', row), element('td', row)]};
    });
    const shown = i => {
      const byte = data.bytes[i], c = data.text[i];
      return byte === 0x20 ? 'space' : byte > 0x20 && byte < 0x7f ? `\u201c${c}\u201d` : `byte ${byte}`;
    };
    const show = i => {
      if (i < 0 || i >= data.size) return;
      const window = data.starts.filter(s => s <= i).length, next = i + 1;
      const nll = data.nll(i), known = next < data.size && !data.isStart.has(next);
      facts[0].textContent = `${shown(i)}, window ${window}, position ${i - data.starts[window - 1]}; ` +
          (nll === undefined ? 'first of its window' : `NLL ${nll.toFixed(3)}`);
      facts[1].textContent = (known ? `then ${shown(next)}, NLL ${data.nll(next).toFixed(3)}` : 'end of its window') +
          (data.need(i) ? `; needs ${data.need(i)}` : '');
      const {chosen} = data.layers[layer];
      facts[2].textContent = `layer ${layer} reads with ${experts[chosen[i]] || 'none'}`;
      rows.forEach(({row, cells}, l) => {
        row.classList.toggle('now', l === layer);
        data.layers[l].weights(i).forEach((weight, k) => {
          cells[k + 1].textContent = weight.toFixed(2);
          cells[k + 1].style.setProperty('--share', `${100 * weight}%`);
        });
        const u = data.layers[l].u(i), mi = data.layers[l].mi(i);
        cells[4].textContent = u === undefined ? '\u2013' : u <= -327 ? '< -327' : u.toFixed(2);
        cells[5].textContent = mi === undefined ? '\u2013' : mi.toFixed(3);
      });
      detail.dataset.at = i;
    };
    const select = i => {
      if (!data.size) return;
      if (now >= 0) cellOf(now).classList.remove('now');
      now = Math.max(0, Math.min(i, data.size - 1));
      const cell = cellOf(now);
      cell.classList.add('now');
      cell.scrollIntoView({block: 'nearest'});
      show(now);
    };
    // The character above or below, as the text happens to be laid out.
    const across = (i, step) => {
      const from = cellOf(Math.max(i, 0)).getBoundingClientRect();
      for (let j = i + step; j >= 0 && j < data.size && Math.abs(j - i) < longest; j += step) {
        const at = cellOf(j).getBoundingClientRect();
        if (Math.abs(at.top - from.top) > from.height / 2 && step * (at.left - from.left) > -2) return j;
      }
      return i;
    };

    const indexAt = event => event.target.closest('b') ? event.target.closest('b').index : -1;
    text.addEventListener('mouseover', event => show(indexAt(event)));
    text.addEventListener('mouseleave', () => show(now));
    text.addEventListener('click', event => { const i = indexAt(event); if (i >= 0) select(i); });
    text.addEventListener('focus', () => { if (now < 0 && text.matches(':focus-visible')) select(0); });
    const moves = {ArrowRight: () => now + 1, ArrowLeft: () => now - 1, ArrowDown: () => across(now, 1), ArrowUp: () => across(now, -1),
                   Home: () => 0, End: () => data.size - 1};
    text.addEventListener('keydown', event => {
      if (!moves[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      select(moves[event.key]());
    });
    // Radio buttons: arrow keys go through the layers.
    reader.querySelector('fieldset').addEventListener('change', event => {
      layer = Number(event.target.value);
      for (const chunk of chunks) {
        if (chunk.cells) for (const cell of chunk.box.querySelectorAll('b')) cell.className = look(cell.index);
      }
      show(Number(detail.dataset.at ?? -1));
    });
    reader.dataset.ready = 'true';
  }

  const seen = new IntersectionObserver(entries => {
    for (const {target, isIntersecting} of entries) {
      if (!isIntersecting) continue;
      seen.unobserve(target);
      start(target);
    }
  }, {rootMargin: '600px'});
  for (const reader of document.querySelectorAll('.reader')) seen.observe(reader);
})();
