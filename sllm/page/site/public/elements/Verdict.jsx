export default function Verdict() {
  const broken = props.rules.filter((rule) => !rule.ok && rule.reason);
  return (
    <div className="verdict" data-verdict={props.ok ? 'ok' : 'broken'}>
      <span className={`summary ${props.ok ? 'ok' : 'broken'}`}>{props.summary}</span>
      {props.rules.map((rule) => (
        <span key={rule.name} className={`rule ${rule.ok ? 'ok' : 'broken'}`}>
          {rule.ok ? '✓' : '✗'} {rule.name}
        </span>
      ))}
      {broken.map((rule) => (
        <span key={rule.name} className="reason">{rule.name}: {rule.reason}</span>
      ))}
    </div>
  );
}
