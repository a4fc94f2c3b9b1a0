/* What Chainlit's page has no setting for. */

// A draft survives a reload and a change of model, until it is sent.
const DRAFT = 'sllm-draft';
const input = () => document.querySelector('#chat-input');
const setInput = (element, text) => {
  Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, 'value').set.call(element, text);
  element.dispatchEvent(new Event('input', { bubbles: true }));
};
document.addEventListener('input', ({ target }) => {
  if (target.id === 'chat-input') sessionStorage.setItem(DRAFT, target.value);
}, true);

let restoredInput = null;
const restore = () => {
  const element = input();
  if (element === restoredInput) return;
  restoredInput = element;
  const draft = sessionStorage.getItem(DRAFT);
  if (element && draft && !element.value) setInput(element, draft);
};

// A sent message is kept until the server has accepted it. A refused message, or one that was lost with the connection,
// goes back into the input.
const SENT = 'sllm-sent';
const send = () => {
  const element = input();
  if (!element || !element.value) return;
  sessionStorage.setItem(SENT, element.value);
  sessionStorage.removeItem(DRAFT);
  atEnd = true;
  setTimeout(() => {
    if (!element.isConnected || !element.value) return;
    sessionStorage.setItem(DRAFT, element.value); // it was not sent: an answer is still being written
    sessionStorage.removeItem(SENT);
  }, 500);
};
document.addEventListener('click', ({ target }) => { if (target.closest('#chat-submit')) send(); }, true);
document.addEventListener('keydown', ({ key, shiftKey, isComposing, target }) => {
  if (key === 'Enter' && !shiftKey && !isComposing && target.id === 'chat-input') send();
}, true);
const isShown = (text) => [...document.querySelectorAll('[data-step-type=user_message] .message-content')].some(
  (element) => element.innerText.trim() === text.trim(),
);
window.addEventListener('message', ({ data, origin }) => {
  if (origin !== window.location.origin || !data || !data.sllm) return;
  const text = sessionStorage.getItem(SENT);
  const element = input();
  if (text === null || !element) return;
  if (data.sllm === 'taken') {
    sessionStorage.removeItem(SENT);
    if (element.value === text) setInput(element, '');
    return;
  }
  setTimeout(() => { // refused; or the conversation was opened again: is it in there?
    if (sessionStorage.getItem(SENT) !== text) return;
    sessionStorage.removeItem(SENT);
    if (!isShown(text) && !input().value) setInput(input(), text);
  }, data.sllm === 'opened' ? 1000 : 0);
});

// Chainlit's page measures and scrolls when a message arrives. When something grows later (a comparison and its buttons,
// a task's rules, a form), a resize event makes it measure again. A user at the end stays there; a user who has scrolled
// up, or is filling in a field, stays where they are.
let scroller = null;
let atEnd = true;
let lastTop = 0;
document.addEventListener('scroll', ({ target }) => {
  if (target !== scroller) return;
  const near = scroller.scrollTop + scroller.clientHeight >= scroller.scrollHeight - 10;
  atEnd = near || (atEnd && scroller.scrollTop >= lastTop); // content that grew meanwhile does not move a user away from the end
  lastTop = scroller.scrollTop;
}, true);
const follow = () => {
  if (!scroller) return;
  const before = scroller.scrollTop;
  window.dispatchEvent(new Event('resize'));
  const last = [...scroller.querySelectorAll('.step')].pop();
  if (!last || last.dataset.stepType === 'user_message') return; // Chainlit scrolls to a question that has no answer yet
  const stay = !atEnd || scroller.querySelector('textarea:focus, select:focus');
  scroller.scrollTop = stay ? before : scroller.scrollHeight;
  scroller.dispatchEvent(new Event('scroll')); // lets Chainlit show or hide the arrow
};
const sizes = new ResizeObserver(() => requestAnimationFrame(follow));
const watch = () => {
  const element = document.querySelector('main .overflow-y-auto > .overflow-y-auto');
  if (element === scroller) return;
  [scroller, atEnd, lastTop] = [element, true, 0];
  sizes.disconnect();
  if (element) [element, element.firstElementChild].forEach((part) => sizes.observe(part));
};

// A thumb is stored when it is clicked. Chainlit's comment box would lose it when closed: it is sent at once, and opened
// again for the comment.
document.addEventListener('click', async ({ target, isTrusted }) => {
  const thumb = isTrusted && target.closest('.positive-feedback-off, .negative-feedback-off');
  if (!thumb) return;
  await null; // React shows the box
  const submit = document.querySelector('#submit-feedback');
  if (!submit) return;
  submit.click();
  await null; // and closes it
  thumb.click();
});

const plainFetch = window.fetch;
const pathOf = (request) => new URL(request.url || request, window.location).pathname;

// A page that opens a conversation by its address connects twice, and keeps the connection whose cookie arrives last. It
// has to be the second, whose session its buttons name: an older one that is still waiting for its cookie ends here.
let connections = 0;
const setCookie = async (...request) => {
  const connection = ++connections;
  const response = await plainFetch(...request);
  return connection === connections ? response : new Promise(() => {});
};

// HTTP/2 has no status texts, which Chainlit requires for its message about a wrong password.
window.fetch = async (...request) => {
  if (pathOf(request[0]).endsWith('/set-session-cookie')) return setCookie(...request);
  const response = await plainFetch(...request);
  const statusText = { 401: 'Unauthorized', 429: 'Too Many Requests' }[response.status];
  if (!statusText || response.statusText || !new URL(response.url).pathname.endsWith('/login')) return response;
  return new Response(response.body, { status: response.status, statusText, headers: response.headers });
};

// Accessibility: names for buttons that have only an icon, and missing roles.
const korean = !/^en/i.test(navigator.language);
const LABELS = [
  ['#chat-submit', '보내기', 'Send'], ['#stop-button', '멈추기', 'Stop'], ['#upload-button', '파일 첨부', 'Attach files'],
  ['#chat-settings-open-modal', '설정', 'Settings'], ['#new-chat-button', '새 대화', 'New chat'],
  ['#search-chats-button', '대화 검색', 'Search chats'], ['#sidebar-trigger-button', '지난 대화', 'Past chats'],
  ['#theme-toggle', '화면 테마', 'Theme'], ['#user-nav-button', '사용자 메뉴', 'User menu'],
  ['#thread-options', '대화 메뉴', 'Chat menu'], ['#chat-profiles', '모델', 'Model'], ['#chat-input', '메시지', 'Message'],
  ['.edit-message', '질문 수정', 'Edit the question'], ['#edit-chat-input', '질문', 'Question'],
  ['.positive-feedback-on, .positive-feedback-off', '좋아요', 'Good answer'],
  ['.negative-feedback-on, .negative-feedback-off', '싫어요', 'Bad answer'],
  ['button:has(> .lucide-copy)', '복사', 'Copy'], ['button:has(> .lucide-message-circle)', '의견 수정', 'Edit the comment'],
  ['button[id$=-again]', '다시 생성', 'Regenerate'], ['button[id$=-task_edit]', '과제 수정해서 다시 보내기', 'Edit and send again'],
  ['button:has(> .lucide-arrow-down)', '맨 아래로', 'To the end'],
  ['button:has(> .lucide-eye)', '비밀번호 보기', 'Show the password'],
  ['button:has(> .lucide-eye-off)', '비밀번호 숨기기', 'Hide the password'],
];
// English that Chainlit has no translation for.
const KOREAN = {
  'Close': '닫기', 'Toggle theme': '화면 테마', 'Toggle Sidebar': '지난 대화 열기/닫기', 'Suggestions': '찾은 대화',
  'Avatar for sLLM': '모델',
};
const translate = () => {
  document.querySelectorAll('.sr-only').forEach((element) => {
    if (KOREAN[element.textContent]) element.textContent = KOREAN[element.textContent];
  });
  document.querySelectorAll('[aria-label], [title], [alt]').forEach((element) => {
    for (const name of ['aria-label', 'title', 'alt']) {
      const text = KOREAN[element.getAttribute(name)];
      if (text) element.setAttribute(name, text);
    }
  });
  document.querySelectorAll('[cmdk-group-heading]').forEach((element) => {
    const [, month, year] = element.textContent.match(/^(\d+월) (\d{4})$/) || [];
    if (year) element.textContent = `${year}년 ${month}`;
  });
};
const labelled = new WeakSet(); // by this script: React reuses the element for another button
const describe = () => {
  for (const [selector, ko, en] of LABELS) {
    document.querySelectorAll(selector).forEach((element) => {
      if (element.hasAttribute('aria-label') && !labelled.has(element)) return;
      labelled.add(element);
      element.setAttribute('aria-label', korean ? ko : en);
    });
  }
  document.querySelectorAll('div#thread-options:not([role])').forEach((element) => element.setAttribute('role', 'button'));
  document.querySelectorAll('ul:has(> div):not([role])').forEach((element) => element.setAttribute('role', 'presentation'));
  document.querySelectorAll('[role=slider]:not([aria-label])').forEach((element) => {
    const about = element.closest('div:has(label)');
    if (about) element.setAttribute('aria-label', about.querySelector('label').innerText);
  });
  document.querySelectorAll('img:not([alt])').forEach((element) => element.setAttribute('alt', ''));
};

document.documentElement.lang = korean ? 'ko' : 'en';
new MutationObserver(() => { restore(); watch(); describe(); if (korean) translate(); }).observe(document, { childList: true, subtree: true });
