import { Injectable } from '@nestjs/common';
import { appendFileSync, existsSync, readFileSync, rmSync } from 'node:fs';
import type { HydratedDocument, Model } from 'mongoose';
import { AiTaskModel, TargetModel } from './schemas.js';

/**
 * Stands where MongoDB would: the documents of a Mongoose model in memory, and every save in a file, so that
 * they outlive the process. With a database, inject the models (`@InjectModel`) instead of this.
 */
export class Collection<T> {
  private readonly documents = new Map<string, HydratedDocument<T>>();

  constructor(
    readonly model: Model<T>,
    private readonly file?: string,
  ) {
    if (file === undefined || !existsSync(file)) return;
    for (const line of readFileSync(file, 'utf8').split('\n').slice(0, -1)) {
      const saved = JSON.parse(line);
      if (saved.deleted) this.documents.delete(saved._id);
      else this.documents.set(saved._id, this.model.hydrate(saved));
    }
  }

  all(): HydratedDocument<T>[] {
    return [...this.documents.values()];
  }

  find(id: string): HydratedDocument<T> | undefined {
    return this.documents.get(id);
  }

  async save(document: HydratedDocument<T>): Promise<void> {
    await document.validate();
    this.documents.set(String(document._id), document);
    this.write(document);
  }

  delete(id: string): void {
    this.documents.delete(id);
    this.write({ _id: id, deleted: true });
  }

  clear(): void {
    this.documents.clear();
    if (this.file !== undefined) rmSync(this.file, { force: true });
  }

  private write(line: unknown): void {
    if (this.file !== undefined) appendFileSync(this.file, JSON.stringify(line) + '\n');
  }
}

@Injectable()
export class Store {
  readonly tasks = new Collection(AiTaskModel, file('tasks'));
  readonly targets = new Collection(TargetModel, file('targets'));
}

function file(name: string): string | undefined {
  return process.env.STORE_DIR && `${process.env.STORE_DIR}/${name}.jsonl`;
}
