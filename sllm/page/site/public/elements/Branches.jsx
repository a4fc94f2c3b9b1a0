import { Button } from '@/components/ui/button';
import { ChevronLeft, ChevronRight } from 'lucide-react';

export default function Branches() {
  const { message, index, count, texts } = props;
  const go = (step) => callAction({ name: 'branch', payload: { message, step } });
  const label = texts.branch.replace('{index}', index + 1).replace('{count}', count);
  return (
    <div className="branches" data-branch={`${index + 1}/${count}`} role="group" aria-label={label}>
      <Button size="icon" variant="ghost" aria-label={texts.branch_before} disabled={index === 0} onClick={() => go(-1)}>
        <ChevronLeft />
      </Button>
      <span>{index + 1}/{count}</span>
      <Button
        size="icon" variant="ghost" aria-label={texts.branch_after} disabled={index === count - 1} onClick={() => go(1)}
      >
        <ChevronRight />
      </Button>
    </div>
  );
}
