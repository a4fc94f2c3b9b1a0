// The reader of questions and answers. Cards are made as they come into view: a thousand questions open at once.
const DATA = JSON.parse(document.getElementById('data').textContent);
const PAGE = 20; // cards that are made at a time
const TEXT = {
  ko: { all: '모든 과제', asked: '질문 순서', differ: '모델 간 점수 차이가 큰 순서', worst: '점수가 낮은 순서: ', search: '질문과 답변에서 찾기',
        count: '개', prompt: '앞선 대화', reference: '정답', none: '검색 결과가 없습니다', empty: '(빈 답변)', free: '(과제 없음)', trained: '학습 텍스트와 겹침: ' },
  en: { all: 'All tasks', asked: 'In the order asked', differ: 'Largest disagreement first', worst: 'Lowest score first: ',
        search: 'Search questions and answers', count: ' questions', prompt: 'Earlier turns', reference: 'Reference', none: 'Nothing found', empty: '(empty answer)', free: '(no task)', trained: 'Overlaps with training texts of ' },
};
const $ = (id) => document.getElementById(id);
const language = () => document.documentElement.dataset.lang;
const make = (tag, className, text) => {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
};
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const share = (suite, value) => { // 0 is the worst score of the suite, 1 the best
  const { least, most } = DATA.headlines[suite];
  return (value - least) / (most - least);
};
const scoreOf = (line, model) => { // the mean of the suites that apply to the question
  const scores = Object.entries(line.scores[model]).map(([suite, value]) => share(suite, value));
  return scores.length ? mean(scores) : NaN;
};
const rank = (line, model) => { // questions without a score come last
  const score = scoreOf(line, model);
  return Number.isNaN(score) ? Infinity : score;
};
const spread = (line) => {
  const scores = DATA.models.map((model) => scoreOf(line, model));
  return Math.max(...scores) - Math.min(...scores) || 0;
};

const highlighted = (tag, text, words) => {
  const element = make(tag);
  if (!words) { element.textContent = text; return element; }
  const lower = text.toLowerCase();
  let position = 0;
  for (let at = lower.indexOf(words); at >= 0; at = lower.indexOf(words, position)) {
    element.append(text.slice(position, at), make('mark', '', text.slice(at, at + words.length)));
    position = at + words.length;
  }
  element.append(text.slice(position));
  return element;
};

const card = (line, words) => {
  const text = TEXT[language()];
  const article = make('article');
  article.append(make('h3', '', [line.task, (DATA.tasks[line.task] || {})[language()], line.id].filter(Boolean).join(' · ')));
  if (line.trained.length) article.append(make('p', 'note warn', text.trained + line.trained.join(', ')));
  article.append(highlighted('pre', line.prompt, words));
  if (line.before.length) {
    const details = make('details');
    details.append(make('summary', '', text.prompt));
    for (const [role, index] of line.before) details.append(make('pre', 'soft', `[${role}]\n${DATA.texts[index]}`));
    article.append(details);
  }
  const answers = make('div', 'answers');
  const add = (title, color, texts, scores, reasons) => {
    const section = make('section');
    if (color) section.style.setProperty('--color', color);
    const chips = make('div', 'chips');
    for (const [suite, value] of Object.entries(scores)) {
      const shown = DATA.headlines[suite].unit === 'share' ? `${Math.round(100 * value)}%` : value.toFixed(1);
      const good = share(suite, value);
      chips.append(make('span', `chip ${good >= 0.999 ? 'good' : good < 0.5 ? 'bad' : ''}`, `${DATA.headlines[suite][language()]} ${shown}`), ' ');
    }
    section.append(make('h4', '', title), ...(chips.childElementCount ? [chips] : []));
    texts.forEach((answer, i) => {
      if (i) section.append(make('hr'));
      section.append(answer.trim() ? highlighted('pre', answer.trim(), words) : make('p', 'soft', text.empty));
      if (reasons[i] && reasons[i] !== 'stop') section.append(make('small', '', reasons[i]));
    });
    answers.append(section);
  };
  if (line.reference) add(text.reference, '', [line.reference], {}, []);
  for (const model of DATA.models) add(model, DATA.colors[model], line.answers[model], line.scores[model], line.reasons[model]);
  article.append(answers);
  return article;
};

let shown = [];
let made = 0;
const more = () => {
  const words = $('search').value.trim().toLowerCase();
  $('reader').append(...shown.slice(made, made + PAGE).map((line) => card(line, words)));
  made += PAGE;
};
const edge = make('div');
$('reader').after(edge);
new IntersectionObserver(([entry]) => { if (entry.isIntersecting && made < shown.length) { more(); again(); } }, { rootMargin: '1500px' }).observe(edge);
const again = () => requestAnimationFrame(() => { // the edge may still be in view, and is not reported again
  if (made < shown.length && edge.getBoundingClientRect().top < window.innerHeight + 1500) { more(); again(); }
});

const update = () => {
  const [task, order, words] = [$('task').value, $('order').value, $('search').value.trim().toLowerCase()];
  shown = DATA.lines.filter((line) => (task === '*' || (line.task || '-') === task)
    && (!words || [line.prompt, line.reference || '', ...Object.values(line.answers).flat()].some((text) => text.toLowerCase().includes(words))));
  if (order === 'differ') shown.sort((a, b) => spread(b) - spread(a));
  else if (order.startsWith('worst:')) shown.sort((a, b) => rank(a, order.slice(6)) - rank(b, order.slice(6)));
  $('count').textContent = shown.length + TEXT[language()].count;
  $('reader').replaceChildren(...(shown.length ? [] : [make('p', 'soft', TEXT[language()].none)]));
  made = 0;
  more();
  again();
};

const option = (value, text) => Object.assign(make('option', '', text), { value });
const label = () => {
  const text = TEXT[language()];
  const [task, order] = [$('task').value || '*', $('order').value || (DATA.models.length > 1 ? 'differ' : 'asked')];
  $('task').replaceChildren(option('*', text.all), ...Object.keys(DATA.tasks).map((id) => option(id || '-', [id, DATA.tasks[id][language()]].filter(Boolean).join(' ') || text.free)));
  $('order').replaceChildren(option('asked', text.asked), ...(DATA.models.length > 1 ? [option('differ', text.differ)] : []),
    ...DATA.models.map((model) => option(`worst:${model}`, text.worst + model)));
  [$('task').value, $('order').value, $('search').placeholder] = [task, order, text.search];
  document.documentElement.lang = language();
  update();
};
$('language').addEventListener('click', () => {
  document.documentElement.dataset.lang = language() === 'ko' ? 'en' : 'ko';
  label();
});
$('task').addEventListener('change', update);
$('order').addEventListener('change', update);
let typing;
$('search').addEventListener('input', () => { clearTimeout(typing); typing = setTimeout(update, 150); });
if (!/^ko/i.test(navigator.language)) document.documentElement.dataset.lang = 'en';
label();
