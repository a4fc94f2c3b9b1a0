import { FileText } from 'lucide-react';

const size = (bytes) => (bytes < 1024 ? `${bytes} B` : bytes < 2 ** 20 ? `${Math.round(bytes / 1024)} KB` : `${(bytes / 2 ** 20).toFixed(1)} MB`);

export default function Files() {
  return (
    <div className="files">
      {props.files.map((file, index) => (
        <span key={index} className="file"><FileText /> {file.name} <small>{size(file.size)}</small></span>
      ))}
    </div>
  );
}
