import { Button } from '@/components/ui/button';
import { Markdown } from '@/components/markdown';
import { useEffect, useState } from 'react';

const CHOICES = ['left', 'right', 'tie', 'both_bad'];

export default function Arena() {
  const { comparison, state, words, choice, changed, names, voted } = props;
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
        ['left', 'right'].forEach((place, index) => {
          const change = data[place];
          if (!change) return;
          next[place] = old[place].slice(0, change.at) + change.text;
          next.waiting[index] = change.waiting;
        });
        return next;
      });
    };
    window.addEventListener('message', listen);
    return () => window.removeEventListener('message', listen);
  }, [comparison]);

  const vote = async (picked) => {
    setSending(true);
    try {
      await callAction({ name: 'vote', payload: { comparison, choice: picked } });
    } finally {
      setSending(false);
    }
  };

  const shown = writing ? live : props;
  const liked = changed || choice;
  const side = (place, index) => (
    <div className={`arena-side ${liked === place ? 'liked' : ''}`} data-side={place}>
      <div className="arena-name">
        {words[`arena_${place}`]} {names ? <b>{names[index]}</b> : null}
        {props.cut && props.cut[index] ? <span className="arena-cut">{props.cut[index]}</span> : null}
      </div>
      <div className="arena-text">
        {shown[place] ? (
          <Markdown latex renderMarkdown>{shown[place]}</Markdown>
        ) : (
          <span className="text-muted-foreground">
            {writing ? shown.waiting[index] || words.arena_writing : ''}
          </span>
        )}
      </div>
    </div>
  );

  return (
    <div data-arena={state}>
      <div className="arena">
        {side('left', 0)}
        {side('right', 1)}
      </div>
      {state === 'same' ? <div className="arena-ask" role="status">{words.arena_same}</div> : null}
      {state === 'vote' || state === 'voted' ? (
        <div className="arena-votes">
          <div className="arena-ask" role="status">{state === 'vote' ? words.arena_ask : voted}</div>
          {CHOICES.map((name) => (
            <Button
              key={name}
              size="sm"
              variant={liked === name ? 'default' : 'outline'}
              aria-pressed={liked === name}
              disabled={sending}
              data-vote={name}
              onClick={() => vote(name)}
            >
              {words[`vote_${name}`]}
            </Button>
          ))}
        </div>
      ) : null}
    </div>
  );
}
