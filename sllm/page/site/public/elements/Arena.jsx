import { Button } from '@/components/ui/button';
import { Markdown } from '@/components/markdown';
import { useEffect, useState } from 'react';

const CHOICES = ['left', 'right', 'tie', 'both_bad'];

export default function Arena() {
  const { comparison, state, texts, choice, changed, names, voted } = props;
  const [sending, setSending] = useState(false);
  // While the answers are being written, what is new comes as a window message: {arena, left: {at, text, waiting}, …}.
  const [live, setLive] = useState({ left: props.left, right: props.right, waiting: props.waiting });
  const writing = state === 'writing';

  useEffect(() => {
    setLive({ left: props.left, right: props.right, waiting: props.waiting });
  }, [state, props.left, props.right]);

  useEffect(() => {
    const listen = ({ data, origin }) => {
      if (origin !== window.location.origin || !data || data.arena !== comparison) return;
      setLive((old) => {
        const next = { ...old, waiting: [...old.waiting] };
        ['left', 'right'].forEach((side, index) => {
          const change = data[side];
          if (!change) return;
          next[side] = old[side].slice(0, change.at) + change.text;
          next.waiting[index] = change.waiting;
        });
        return next;
      });
    };
    window.addEventListener('message', listen);
    return () => window.removeEventListener('message', listen);
  }, [comparison]);

  const vote = async (newChoice) => {
    setSending(true);
    try {
      await callAction({ name: 'vote', payload: { comparison, choice: newChoice } });
    } finally {
      setSending(false);
    }
  };

  const current = writing ? live : props;
  const preferred = changed || choice;
  const renderSide = (side, index) => (
    <div className={`arena-side ${preferred === side ? 'liked' : ''}`} data-side={side}>
      <div className="arena-name">
        {texts[`arena_${side}`]} {names ? <b>{names[index]}</b> : null}
        {props.cut && props.cut[index] ? <span className="arena-cut">{props.cut[index]}</span> : null}
      </div>
      <div className="arena-text">
        {current[side] ? (
          <Markdown latex renderMarkdown>{current[side]}</Markdown>
        ) : (
          <span className="text-muted-foreground">
            {writing ? current.waiting[index] || texts.arena_writing : ''}
          </span>
        )}
      </div>
    </div>
  );

  return (
    <div data-arena={state}>
      <div className="arena">
        {renderSide('left', 0)}
        {renderSide('right', 1)}
      </div>
      {state === 'same' ? <div className="arena-ask" role="status">{texts.arena_same}</div> : null}
      {state === 'vote' || state === 'voted' ? (
        <div className="arena-votes">
          <div className="arena-ask" role="status">{state === 'vote' ? texts.arena_ask : voted}</div>
          {CHOICES.map((name) => (
            <Button
              key={name}
              size="sm"
              variant={preferred === name ? 'default' : 'outline'}
              aria-pressed={preferred === name}
              disabled={sending}
              data-vote={name}
              onClick={() => vote(name)}
            >
              {texts[`vote_${name}`]}
            </Button>
          ))}
        </div>
      ) : null}
    </div>
  );
}
