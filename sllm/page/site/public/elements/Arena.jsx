import { Button } from '@/components/ui/button';
import { Markdown } from '@/components/markdown';
import { useState } from 'react';

const CHOICES = ['left', 'right', 'tie', 'both_bad'];

export default function Arena() {
  const { state, words, waiting, choice, names, voted } = props;
  const [sending, setSending] = useState(false);

  const vote = async (picked) => {
    setSending(true);
    try {
      await callAction({ name: 'vote', payload: { comparison: props.comparison, choice: picked } });
    } finally {
      setSending(false);
    }
  };

  const side = (place, index) => (
    <div className={`arena-side ${choice === place ? 'liked' : ''}`} data-side={place}>
      <div className="arena-name">
        {words[`arena_${place}`]} {names ? <b>{names[index]}</b> : null}
      </div>
      <div className="arena-text">
        {props[place] ? (
          <Markdown latex renderMarkdown>{props[place]}</Markdown>
        ) : (
          <span className="text-muted-foreground">
            {state === 'writing' ? waiting[index] || words.arena_writing : ''}
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
      {state === 'vote' || state === 'voted' ? (
        <div className="arena-votes">
          <div className="arena-ask" role="status">{state === 'vote' ? words.arena_ask : voted}</div>
          {CHOICES.map((name) => (
            <Button
              key={name}
              size="sm"
              variant={choice === name ? 'default' : 'outline'}
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
