/* The fields of a task. Without fields it only marks the message as a task, which cannot be edited in place. */
export default function Task() {
  const fields = props.fields || [];
  return (
    <div className="task" data-task>
      {fields.map(([label, value]) => (
        <div key={label}>
          <b>{label}</b>
          <div className="value">{Array.isArray(value) ? value.map((line) => `- ${line}`).join('\n') : value}</div>
        </div>
      ))}
    </div>
  );
}
