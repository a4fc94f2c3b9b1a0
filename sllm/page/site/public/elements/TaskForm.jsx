import { Button } from '@/components/ui/button';
import { useState } from 'react';
import { toast } from 'sonner';

const groupOf = (task) => task.group || 'original'; // forms of an older page have none
const asText = (value) => (Array.isArray(value) ? value.join('\n') : value || '');

export default function TaskForm() {
  const { tasks, texts } = props;
  const hasContext = (task) => task.fields.some((field) => field.name === 'context');
  const groups = [...new Set(tasks.map(groupOf))];
  const selected = tasks.find((task) => task.id === props.task);
  const first = selected || (props.values && props.values.context && tasks.find(hasContext)) || tasks[0];
  const [id, setId] = useState(first && first.id);
  const [values, setValues] = useState(props.values || {});
  const [missing, setMissing] = useState([]);
  const [sending, setSending] = useState(false);
  const task = tasks.find((entry) => entry.id === id) || first;

  if (props.sent) return <div data-sent className="text-muted-foreground text-sm">{texts.task_sent}</div>;

  const set = (name, value) => setValues({ ...values, [name]: value });
  const example = () => {
    const fields = {};
    Object.entries(task.example).forEach(([name, value]) => { fields[name] = asText(value); });
    setValues(fields);
    setMissing([]);
  };
  const send = async () => {
    const fields = {};
    task.fields.forEach(({ name }) => {
      const text = asText(values[name]).trim();
      if (!text) return;
      fields[name] = name === 'choices' ? text.split('\n').map((line) => line.trim()).filter(Boolean) : text;
    });
    const empty = task.fields.filter((field) => field.required && !fields[field.name]).map((field) => field.name);
    setMissing(empty);
    if (empty.length) return;
    setSending(true);
    try {
      await callAction({ name: 'task_run', payload: { form: props.form, task: id, fields } });
    } catch (error) {
      toast.error(String(error)); // the form keeps its fields
    } finally {
      setSending(false);
    }
  };

  return (
    <div className="task-form">
      <div>
        <label htmlFor="task-picker">{texts.task_picker}</label>
        <select id="task-picker" value={id} onChange={(event) => { setId(event.target.value); setMissing([]); }}>
          {groups.map((group) => (
            <optgroup key={group} label={texts[`task_${group}`] || group}>
              {tasks.filter((entry) => groupOf(entry) === group).map((entry) => (
                <option key={entry.id} value={entry.id}>{`${entry.name}  (${entry.id})`}</option>
              ))}
            </optgroup>
          ))}
        </select>
      </div>
      {task.fields.map((field) => (
        <div key={field.name}>
          <label htmlFor={`field-${field.name}`}>
            {texts[`field_${field.name}`] || field.name}
            {field.required ? ' *' : null}
          </label>
          <textarea
            id={`field-${field.name}`}
            rows={['context', 'table', 'text'].includes(field.name) ? 6 : field.name === 'choices' ? 4 : 2}
            placeholder={field.required ? '' : task.question || texts.optional}
            value={asText(values[field.name])}
            onChange={(event) => set(field.name, event.target.value)}
          />
        </div>
      ))}
      <div className="buttons">
        <Button size="sm" id="task-send" disabled={sending} onClick={send}>
          {sending ? texts.task_sending : texts.task_send}
        </Button>
        <Button size="sm" id="task-example" variant="outline" onClick={example}>{texts.task_example}</Button>
        <Button size="sm" variant="ghost" onClick={() => setValues({})}>{texts.task_clear}</Button>
        {missing.length ? (
          <span className="missing" role="alert">
            {texts.task_missing + missing.map((name) => texts[`field_${name}`] || name).join(', ')}
          </span>
        ) : null}
      </div>
    </div>
  );
}
